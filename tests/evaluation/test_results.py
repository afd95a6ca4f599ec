"""Results: saved and read back, joined where they were measured alike, refused where not."""

from dataclasses import replace

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.evaluation.metrics import COLUMNS, METRICS, Figure
from tdd_cli.evaluation.results import Entry, Result, baseline_of, check_alike, compared, join, measures_of


def entry(label, steps, fid, *, guidance=1.0, baseline=False, **more):
    sampling = {"steps": steps, "guidance": guidance, "eta": 0.0}
    figures = {"fid": Figure(fid, environment="cpu"), **more}
    subject = {"kind": "model", "weights": label, "sampling": sampling}
    return Entry(label, subject, 100, 0, figures, baseline=baseline, shards="here")


@pytest.fixture
def result():
    entries = [
        entry("teacher", 50, 10.0, baseline=True),
        entry("ours", 4, 12.0, clip=Figure(30.0, 29.0, 31.0)),
        entry("ours", 8, 11.0),
    ]
    return Result(
        protocol={"set": "emoji", "version": 1, "n": 100, "seeds": "0"},
        protocol_sha256="a" * 64,
        remarks=["a <remark>"],
        measures={
            "fid": {"what": "Frechet", "network": "emoji", "weights_sha256": "b" * 64, "input": "64 px"}
        },
        environments={"cpu": {"device": "cpu", "versions": {"torch": "2"}}},
        entries=entries,
    )


def test_what_is_saved_is_read_back(result, tmp_path):
    result.save(tmp_path / "eval.json")
    assert Result.load(tmp_path / "eval.json") == result


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2, "entries": 3}'])
def test_other_files_are_no_results(tmp_path, text):
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(UsageError, match="not a result of tdd eval"):
        Result.load(tmp_path / "eval.json")


def test_results_of_different_protocols_are_not_compared(result):
    other = replace(result, protocol={**result.protocol, "n": 50}, protocol_sha256="c" * 64)
    with pytest.raises(UsageError, match="protocols differ in n: 50 / 100"):
        check_alike(other, result, hint="")


def test_results_of_different_feature_weights_are_not_compared(result):
    other = replace(result, measures={"fid": {**result.measures["fid"], "weights_sha256": "d" * 64}})
    with pytest.raises(UsageError, match="fid was measured with another weights_sha256: dddd"):
        check_alike(other, result, hint="")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"steps": 8}, "teacher_steps: 8 / 50"), ({"guidance": 4.0}, r"teacher_guidance: 4.0 / 1.75")],
)
def test_distances_to_different_teachers_are_not_compared(result, tmp_path, change, said):
    teacher = {"model": "m", "model_files": None, "sampling": {"steps": 50, "guidance": 1.75}}
    another = {**teacher, "sampling": {**teacher["sampling"], **change}}
    ours, other = (
        replace(result, measures=measures_of(["teacher", "clip"], {}, each)) for each in (teacher, another)
    )
    assert "teacher_steps" not in ours.measures["clip"]
    ours.save(tmp_path / "eval.json")
    check_alike(ours, Result.load(tmp_path / "eval.json"), hint="")
    with pytest.raises(UsageError, match=f"teacher was measured with another {said}"):
        check_alike(other, ours, hint="")


def test_joining_keeps_every_subject_once_and_all_its_figures(result):
    again = replace(result, entries=[entry("ours", 4, 12.5)], remarks=[], environments={"gpu": {}})
    joined = join(again, result)
    check_alike(again, result, hint="")
    four = [each for each in joined.entries if each.label == "ours" and each.sampling["steps"] == 4]
    assert len(joined.entries) == 3
    assert len(four) == 1
    assert four[0].figures == {"fid": Figure(12.5, environment="cpu"), "clip": Figure(30.0, 29.0, 31.0)}
    assert set(joined.environments) == {"cpu"}  # what nothing was measured on goes


def test_the_baselines_are_those_that_were_asked_for_last(result):
    def labels(found):
        return [(each.label, each.sampling["steps"], each.baseline) for each in found.entries]

    none = join(replace(result, entries=[entry("new", 4, 9.0)]), result)
    assert labels(none) == [("teacher", 50, True), ("ours", 4, False), ("ours", 8, False), ("new", 4, False)]
    named = join(replace(result, entries=[entry("ours", 4, 12.0, baseline=True)]), none, rebased=True)
    assert labels(named) == [
        ("teacher", 50, False),
        ("ours", 8, False),
        ("new", 4, False),
        ("ours", 4, True),
    ]


def test_a_baseline_of_another_protocol_is_marked_and_never_joined(result):
    past = replace(result, protocol={**result.protocol, "n": 50}, protocol_sha256="c" * 64)
    shown = compared(result, replace(past, entries=[entry("ours", 4, 1.0)]))
    assert [(each.apart, each.baseline) for each in shown.entries] == [
        ("their protocols differ in n: 100 / 50", True),
        ("", True),
        ("", False),
        ("", False),
    ]
    again = join(replace(result, entries=[entry("ours", 4, 12.5, kid=Figure(1.0))]), shown)
    assert [each.figures["fid"].value for each in again.entries if each.key == shown.entries[0].key] == [
        1.0,
        12.5,
    ]
    assert any(each.apart for each in again.entries)
    other = join(replace(result, entries=[entry("third", 4, 2.0, baseline=True)]), shown, rebased=True)
    assert not any(each.apart for each in other.entries)


def test_an_earlier_result_is_a_baseline_of_the_same_subject_too(result):
    ours = replace(result, entries=[entry("ours", 4, 12.0)])
    shown = compared(ours, replace(result, entries=[entry("ours", 4, 12.2)]))
    assert [(each.baseline, each.figures["fid"].value) for each in shown.entries] == [
        (True, 12.2),
        (False, 12.0),
    ]
    assert [each.baseline for each in join(ours, shown).entries] == [True, False]
    assert [each.baseline for each in join(ours, shown, rebased=True).entries] == [False]


def test_the_baseline_is_the_one_of_the_same_settings_else_the_first(result):
    same = entry("other", 8, 9.0, baseline=True)
    entries = [*result.entries, same]
    assert baseline_of(entries[2], entries) is same
    assert baseline_of(entries[1], entries) is entries[0]
    assert baseline_of(entries[0], entries) is None


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_computes_and_shows(name):
    assert METRICS[name].what
    assert set(METRICS[name].columns) <= set(COLUMNS)
