"""The study: a plan of commands, each carried out once, and what is said of the figures."""

import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tdd_cli.bundled.emoji.study.__main__ import main
from tdd_cli.bundled.emoji.study.carry import carry_out, done, missing
from tdd_cli.bundled.emoji.study.page import pictures, write_page
from tdd_cli.bundled.emoji.study.plan import (
    CTM,
    NOISE,
    Point,
    Size,
    Task,
    efficiency,
    own_sampler,
    point,
    run_name,
    spent,
    tasks,
)
from tdd_cli.bundled.emoji.study.rows import Row, Terms, as_csv, joined, load, measured, terms
from tdd_cli.bundled.emoji.study.summary import Mean, ahead, best_guidance, difference, mean_of
from tdd_cli.bundled.emoji.study.tables import verdicts
from tdd_cli.errors import DataError, TddError, UsageError
from tdd_cli.evaluation.metrics import Figure
from tdd_cli.evaluation.results import Entry, Result
from tdd_cli.recipe import load_recipe

DOCS = Path(__file__).parents[2] / "docs"
TERMS = Terms(384, 50, "6c2a603408d4")


def test_every_training_of_the_plan_is_a_recipe_that_loads(tmp_path):
    plan = tasks(tmp_path, Size())
    trained = [task for task in plan if task.command[0] == "distill"]
    for task in trained:
        options = task.command[1:]
        sets = [value for key, value in pairwise(options) if key == "--set"]
        assert load_recipe(options[options.index("--recipe") + 1], sets).train.steps in (300, 150, 75)
    assert len(trained) == 3 * (4 + 8 + 4 * 2 + 6) + 4 * 3  # methods, ablations, budgets, noise; rates
    assert len({task.name for task in plan}) == len(plan)


def test_every_run_is_trained_before_it_is_measured(tmp_path):
    made = set()
    for task in tasks(tmp_path, Size()):
        runs = {part for part in task.command if part.startswith(str(tmp_path / "runs"))}
        if task.run is None:
            assert runs <= made
        made |= runs


def test_a_measurement_knows_the_points_it_gives(tmp_path):
    (task,) = [one for one in tasks(tmp_path, Size(seeds=(7,)), [2]) if one.name == "measure-early-tdd"]
    assert sorted(task.points) == [
        Point("tdd-s7", 300, k, 1.0, "cfg", 0.0, schedule, 0)
        for k in (5, 6, 7)
        for schedule in ("early", "equal")
    ]


def test_what_is_known_is_not_measured_again_nor_trained_for(tmp_path):
    plan = tasks(tmp_path, Size(), [1])
    one = next(task for task in plan if task.name == "measure-methods-ctm")
    others = {point for task in plan for point in task.points - one.points}
    left = missing(plan, [*others, min(one.points)])
    assert [task.name for task in left] == ["ctm-s0", "ctm-s1", "ctm-s2", "measure-methods-ctm"]
    assert missing(plan, others | one.points) == []


def test_a_measurement_that_another_one_contains_is_left_to_that_one():
    some = Point("a-s0", 300, 4, 1.0, "cfg", 0.0, "equal", 0)
    other = some._replace(steps=5)
    small = Task("small", 1, ("eval",), points=frozenset([some]))
    large = Task("large", 2, ("eval",), points=frozenset([some, other]))
    assert [task.name for task in missing([small, large], [])] == ["large"]
    assert [task.name for task in missing([small, large], [other])] == ["large"]
    assert missing([small, large], [some, other]) == []


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


def row(name, seed, steps, fid, **settings):
    own = point(run_name(name, seed), spent(name, Size()), own_sampler(name))
    figures = {"fid": fid, "distance": fid}
    return Row(own._replace(steps=steps, **settings), figures, "2026-11-24", "a processor", "2.13.0")


@pytest.fixture
def rows():
    teacher = Row(Point("teacher", 0, 50, 6.0, "cfg", 0.0, "equal", 0), {"fid": 9.0}, "2026", "p", "t")
    found = [
        row(name, seed, steps, fid + seed)
        for name, fid in (("tdd", 10.0), ("lcm", 20.0), ("pcm", 12.0), (CTM, 30.0))
        for seed in (0, 1)
        for steps in range(4, 9)
    ]
    return [teacher, *found, row("tdd", 0, 4, 99.0, eta=0.3), row("tdd", 0, 4, 5.0, guidance=2.0)]


def test_means_are_over_seeds_at_the_runs_own_sampler(rows):
    assert mean_of(rows, "fid", "tdd", steps=4, guidance=1.0) == Mean(
        10.5, pytest.approx(0.7071, abs=1e-4), 2
    )
    assert mean_of(rows, "fid", CTM, steps=4, guidance=1.0).value == 30.5
    assert mean_of(rows, "fid", "tdd", steps=4, guidance=1.0, eta=0.3).value == 99.0
    assert mean_of(rows, "fid", "tdd", steps=3, guidance=1.0) is None


def test_ahead_is_beyond_both_spreads():
    assert ahead(Mean(10.5, 0.7, 2), Mean(12.5, 0.7, 2), "fid")
    assert not ahead(Mean(10.5, 0.7, 2), Mean(11.5, 0.7, 2), "fid")
    assert ahead(Mean(30.0, 0.1, 2), Mean(29.0, 0.1, 2), "clip")  # higher is better


def test_the_best_guidance_is_that_of_the_best_figure_among_those_measured_at_all_steps(rows):
    assert best_guidance(rows, "fid", "tdd", [4]) == 2.0
    assert best_guidance(rows, "fid", "tdd", [4, 8]) == 1.0
    assert best_guidance(rows, "fid", "one-set", [4]) is None


def test_the_page_says_what_was_asked_and_met_or_not(rows, tmp_path):
    text = write_page(rows, Size(seeds=(0, 1)), "abc", tmp_path).read_text()
    assert "| tdd | FID | 1 | yes | yes | yes | yes | yes |" in text
    assert "TDD's FID at 4 steps, guidance 2, over the teacher's: 0.56 (asked: 1.15): yes" in text
    assert "10.50 ± 0.71" in text
    assert "42 on 2026-11-24 (a processor, torch 2.13.0)" in text
    plots = {path.stem: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert set(plots) == {  # budgets have no two points
        f"study-{figure}-{axis}" for figure in ("fid", "distance") for axis in ("steps", "guidance")
    }
    assert all(text.startswith("<svg") for text in plots.values())
    assert "one seed, 4 steps\n\nNot measured yet.\n" in text


def test_a_student_without_empty_prompts_is_drawn_with_and_without_post_tuning():
    found = [
        row("no-empty", 0, 4, fid + scale, guidance=float(scale), guidance_mode=mode)
        for mode, fid in (("cfg", 10.0), ("post", 50.0))
        for scale in (1, 2)
    ]
    drawing = dict(pictures(found, Size()))["fid-guidance"]
    drawn = re.findall(r'<path d="(M[^"]*)" clip-path="[^"]*" style="[^"]*stroke-width: 1.6', drawing)
    assert len(set(drawn)) == len(drawn) == 2


def test_the_page_names_the_methods_that_tdd_is_not_ahead_of(rows):
    other = [
        each if "pcm" not in each.point.run else Row(each.point, {"fid": 9.0}, "", "", "") for each in rows
    ]
    (table, *_) = verdicts(other)
    assert "| tdd | FID | 1 | not of pcm | not of pcm |" in table


def test_the_page_compares_runs_of_one_seed(rows):
    noisy = [row(NOISE, seed, 4, 8.0 + 1.5 * seed, eta=0.2) for seed in (0, 1)]
    text = "\n".join(verdicts([*rows, *noisy]))
    assert "| tdd-noise less pcm | -3.75 ± 0.35 | - | - | - | - |" in text
    assert difference({"-s0": 1.0, "-s1": 3.0}, {"-s1": 1.0}) == Mean(2.0, 0.0, 1)
    assert difference({"-s0": 1.0}, {"-s1": 1.0}) is None


def test_rows_come_back_from_their_file_unless_they_were_measured_on_other_terms(rows, tmp_path):
    (tmp_path / "study.csv").write_text(as_csv(rows, TERMS))
    assert load(tmp_path / "study.csv", TERMS) == rows
    assert load(tmp_path / "study.csv", Terms(100, 50, TERMS.protocol)) == []
    assert load(tmp_path / "none.csv", TERMS) == []


def test_a_damaged_file_of_rows_is_named_with_its_line(rows, tmp_path):
    text = as_csv(rows, TERMS).replace(",12.0000,", ",twelve,", 1)
    (tmp_path / "study.csv").write_text(text)
    line = next(i for i, line in enumerate(text.splitlines(), 1) if "twelve" in line)
    with pytest.raises(DataError, match=f"study.csv:{line} is not a row of the study"):
        load(tmp_path / "study.csv", TERMS)


def test_what_was_measured_first_stays(rows):
    again = row("tdd", 0, 4, 11.0)
    new = row("tdd", 2, 4, 12.0)
    found = joined(rows, [again, new])
    assert {each.point: each.figures["fid"] for each in found}[again.point] == 10.0
    assert len(found) == len(rows) + 1


def test_an_evaluation_becomes_rows():
    def figures(fid):
        return {"fid": Figure(fid, environment="here")}

    sampling = {
        "steps": 4, "guidance": 1.0, "guidance_mode": "cfg", "eta": 0.2, "schedule": "equal", "clip_x0": 0
    }  # fmt: skip
    entries = [
        Entry("teacher", {"sampling": {**sampling, "steps": 50}}, 10, 0, figures(9.0), baseline=True),
        Entry("ctm-4th-s1", {"sampling": sampling}, 10, 0, {**figures(8.0), "psnr": Figure(20.0)}),
    ]
    places = {"here": {"device_name": "a processor", "versions": {"torch": "2.13.0"}}}
    result = Result({}, "", [], {}, places, entries, created="2026-11-24T10:00:00")
    teacher, student = measured(result, Size())
    assert teacher.point == Point("teacher", 0, 50, 1.0, "cfg", 0.2, "equal", 0)
    assert student.point == Point("ctm-4th-s1", 75, 4, 1.0, "cfg", 0.2, "equal", 0)
    assert student.figures == {"fid": 8.0}
    assert (student.date, student.processor, student.torch) == ("2026-11-24", "a processor", "2.13.0")


def test_the_rows_in_the_repository_are_of_the_study_as_it_is():
    size = Size()
    found = load(DOCS / "study.csv", terms(size))
    assert len(found) > 240
    planned = {point for task in tasks(DOCS, size) for point in task.points}
    assert {each.point for each in found if each.point.run != "teacher"} <= planned


@pytest.mark.slow
def test_a_toy_study_is_carried_out_and_then_found_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    toy = [
        "--out", str(tmp_path / "study"), "--docs", str(tmp_path / "docs"), "--part", "3", "--seeds", "0",
        "--jobs", "2", "--steps", "2", "--n", "10", "--teacher-steps", "2",
        "--set", "train.global_batch=2", "--set", "train.device_batch=2",
        "--set", "preview.prompts=[]", "--set", "student.rank=1",
    ]  # fmt: skip

    def of_tdd(folder, size):
        return [task for task in efficiency(folder, size) if "tdd" in task.name and "4th" not in task.name]

    monkeypatch.setattr("tdd_cli.bundled.emoji.study.plan.efficiency", of_tdd)
    assert main(toy) == 0
    lines = (tmp_path / "docs" / "study.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["run", "tdd-2th-s0", "tdd-s0", "teacher"]
    assert "The study" in (tmp_path / "docs" / "study.md").read_text()
    assert main(toy, lambda arguments: 1 / 0) == 0  # all is known
    capsys.readouterr()
    (tmp_path / "docs" / "study.csv").unlink()
    assert main(toy, lambda arguments: 1 / 0) == 0  # or done, as the notes say
    assert capsys.readouterr().err.count("had been done") == 4
