"""The study: a plan of commands, each carried out once, and what is said of the figures."""

import json
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from tdd_cli.bundled.emoji.study.__main__ import main
from tdd_cli.bundled.emoji.study.carry import carry_out, done
from tdd_cli.bundled.emoji.study.page import write_page
from tdd_cli.bundled.emoji.study.plan import METHODS, Size, Task, own_sampler, tasks
from tdd_cli.bundled.emoji.study.summary import Mean, ahead, best_guidance, over_seeds
from tdd_cli.bundled.emoji.study.tables import verdicts
from tdd_cli.errors import TddError, UsageError
from tdd_cli.evaluation.metrics import Figure
from tdd_cli.evaluation.results import Entry, Result
from tdd_cli.recipe import load_recipe


def test_every_training_of_the_plan_is_a_recipe_that_loads(tmp_path):
    plan = tasks(tmp_path, Size())
    trained = [task for task in plan if task.command[0] == "distill"]
    for task in trained:
        options = task.command[1:]
        sets = [value for key, value in pairwise(options) if key == "--set"]
        assert load_recipe(options[options.index("--recipe") + 1], sets).train.steps in (300, 150, 75)
    assert len(trained) == 3 * (4 + 6 + 4 * 2) + 4 * 4  # methods, ablations, budgets; rates of one seed
    assert len({task.name for task in plan}) == len(plan)


def test_every_run_is_trained_before_it_is_measured(tmp_path):
    made = set()
    for task in tasks(tmp_path, Size()):
        runs = {part for part in task.command if part.startswith(str(tmp_path / "runs"))}
        if task.run is None:
            assert runs <= made
        made |= runs


def test_tasks_are_carried_out_once_and_a_failure_stops_them(tmp_path):
    calls = []
    plan = [Task(name, 1, ("eval", name)) for name in "abc"]

    def fails_at_b(arguments):
        calls.append(arguments[1])
        return int(arguments[1] == "b" and calls.count("b") == 1)

    with pytest.raises(TddError, match="b failed with exit code 1"):
        list(carry_out(tmp_path, plan, fails_at_b))
    assert [before for _, before in carry_out(tmp_path, plan, fails_at_b)] == [True, False, False]
    assert calls == ["a", "b", "b", "c"]


def test_as_many_run_at_a_time_as_asked_but_measurements_one_by_one(tmp_path):
    trainings = [Task(f"run-{i}", 1, ("distill", str(i)), tmp_path / str(i)) for i in range(2)]
    measurements = [Task(f"m-{i}", 1, ("eval", str(i)), needs=("run-0", "run-1")) for i in range(2)]
    together = threading.Barrier(2, timeout=30)
    lock, under_way, order = threading.Lock(), [], []

    def execute(arguments):
        kind, _ = arguments
        with lock:
            under_way.append(kind)
            order.append(kind)
            assert under_way.count("eval") <= 1
        if kind == "distill":
            together.wait()  # passes only if both are under way
        with lock:
            under_way.remove(kind)
        return 0

    assert len(list(carry_out(tmp_path, [*measurements, *trainings], execute, jobs=2))) == 4
    assert order == ["distill", "distill", "eval", "eval"]


def test_an_unfinished_run_is_resumed(tmp_path):
    task = Task("tdd-s0", 1, ("distill",), tmp_path / "runs" / "tdd-s0")
    task.run.mkdir(parents=True)
    (task.run / "manifest.json").write_text("{}")
    calls = []
    list(carry_out(tmp_path, [task], lambda arguments: calls.append(tuple(arguments)) or 0))
    assert calls == [("distill", "--resume", str(task.run))]


def test_what_was_made_by_another_command_is_not_taken_for_done(tmp_path):
    list(carry_out(tmp_path, [Task("a", 1, ("eval", "one"))], lambda _: 0))
    with pytest.raises(UsageError, match="made by another command: tdd eval one"):
        done(tmp_path, Task("a", 1, ("eval", "two")))


def entry(name, seed, steps, fid, *, guidance=1.0, **more):
    sampling = {**own_sampler(name), "steps": steps, "guidance": guidance, **more}
    return Entry(
        f"{name}-s{seed}", {"sampling": sampling}, 10, 0, {"fid": Figure(fid), "distance": Figure(fid)}
    )


@pytest.fixture
def result():
    entries = [
        entry(name, seed, steps, fid + seed)
        for name, fid in (("tdd", 10.0), ("lcm", 20.0), ("pcm", 12.0), ("ctm", 30.0))
        for seed in (0, 1)
        for steps in range(4, 9)
    ]
    entries += [entry("tdd", 0, 4, 99.0, eta=0.3), entry("tdd", 0, 4, 5.0, guidance=2.0)]
    teacher = Entry(
        "teacher", {"sampling": {"steps": 50, "guidance": 6.0}}, 10, 0, {"fid": Figure(9.0)}, True
    )
    return Result(
        {"set": "emoji", "version": 1, "n": 10}, "a" * 64, [], {}, {}, [teacher, *entries], created="2026"
    )


def test_means_are_over_seeds_at_the_runs_own_sampler(result):
    means = over_seeds(result.entries, "fid", steps=4, guidance=1.0)
    assert means["tdd"] == Mean(10.5, pytest.approx(0.7071, abs=1e-4), 2)
    assert set(means) == set(METHODS)
    assert over_seeds(result.entries, "fid", steps=4, guidance=1.0, eta=0.3)["tdd"].value == 99.0


def test_ahead_is_beyond_both_spreads(result):
    means = over_seeds(result.entries, "fid", steps=4, guidance=1.0)
    assert ahead(means["tdd"], means["pcm"], "fid")
    assert not ahead(means["tdd"], Mean(11.5, 0.7, 2), "fid")
    assert ahead(Mean(30.0, 0.1, 2), Mean(29.0, 0.1, 2), "clip")  # higher is better


def test_the_best_guidance_is_that_of_the_best_figure_among_those_measured_at_all_steps(result):
    assert best_guidance(result, "fid", "tdd", [4]) == 2.0
    assert best_guidance(result, "fid", "tdd", [4, 8]) == 1.0
    assert best_guidance(result, "fid", "absent", [4]) is None


def test_the_page_says_what_was_asked_and_met_or_not(result, tmp_path):
    text = write_page(result, Size(seeds=(0, 1)), tmp_path).read_text()
    assert "| tdd | FID | 1 | yes | yes | yes | yes | yes |" in text
    assert "TDD's FID at 4 steps, guidance 2, over the teacher's: 0.56 (asked: 1.15): yes" in text
    assert "10.50 ± 0.71" in text
    plots = {path.stem: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert set(plots) == {  # budgets have no two points
        f"study-{figure}-{axis}" for figure in ("fid", "distance") for axis in ("steps", "guidance")
    }
    assert all(text.startswith("<svg") for text in plots.values())
    assert "## Learning rates, one seed, 4 steps\n\nNot measured yet.\n" in text
    lines = (tmp_path / "study.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result.entries)
    assert "tdd-s0,4,2.0,cfg,0.0,equal,0,5.0000,,,5.0000" in lines


def test_the_page_names_the_methods_that_tdd_is_not_ahead_of(result):
    closer = replace(result.entries[-1], figures={})  # one entry more changes nothing
    entries = [
        replace(each, figures={"fid": Figure(9.0), "distance": Figure(9.0)}) if "pcm" in each.label else each
        for each in (*result.entries, closer)
    ]
    (table, *_) = verdicts(replace(result, entries=entries))
    assert "| tdd | FID | 1 | not of pcm | not of pcm |" in table


@pytest.mark.slow
def test_a_toy_study_is_carried_out_and_then_found_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    toy = [
        "--out", str(tmp_path / "study"), "--docs", str(tmp_path / "docs"), "--part", "3", "--seeds", "0",
        "--jobs", "2", "--steps", "2", "--n", "10", "--teacher-steps", "2",
        "--set", "train.global_batch=2", "--set", "train.device_batch=2",
        "--set", "preview.prompts=[]", "--set", "student.rank=1",
    ]  # fmt: skip
    monkeypatch.setattr("tdd_cli.bundled.emoji.study.plan.SHARES", (2,))
    monkeypatch.setattr("tdd_cli.bundled.emoji.study.plan.METHODS", {"tdd": "emoji-4to8"})
    assert main(toy) == 0
    entries = json.loads((tmp_path / "study" / "evals" / "eval.json").read_text())["entries"]
    assert {each["label"] for each in entries} == {"teacher", "tdd-s0", "tdd-2th-s0"}
    assert "The study" in (tmp_path / "docs" / "study.md").read_text()
    assert main(toy, lambda arguments: 1 / 0) == 0
    assert capsys.readouterr().err.count("had been done") == 3
