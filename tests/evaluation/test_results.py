"""Results: saved and read back, joined where they were measured alike, refused where not."""

from dataclasses import replace

import pytest
from PIL import Image

from tdd_cli.errors import UsageError
from tdd_cli.evaluation.metrics import COLUMNS, METRICS, Figure
from tdd_cli.evaluation.plot import Line, Point, plot, ticks
from tdd_cli.evaluation.report import lines_of, page
from tdd_cli.evaluation.results import Entry, Result, baseline_of, best, check_alike, join, measures_of
from tdd_cli.evaluation.table import rows


def entry(label, steps, fid, *, guidance=1.0, baseline=False, **more):
    sampling = {"steps": steps, "guidance": guidance, "eta": 0.0}
    figures = {"fid": Figure(fid), **more}
    return Entry(label, {"kind": "model", "weights": label, "sampling": sampling}, 100, 0, figures, baseline)


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
        environment={"device": "cpu", "versions": {"torch": "2"}},
        entries=entries,
    )


def test_what_is_saved_is_read_back(result, tmp_path):
    result.save(tmp_path / "eval.json")
    assert Result.load(tmp_path / "eval.json") == result


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "entries": 3}'])
def test_other_files_are_no_results(tmp_path, text):
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(UsageError, match="not a result of tdd eval"):
        Result.load(tmp_path / "eval.json")


def test_results_of_different_protocols_are_not_compared(result):
    other = replace(result, protocol={**result.protocol, "n": 50}, protocol_sha256="c" * 64)
    with pytest.raises(UsageError, match="protocols differ in n: 50 / 100"):
        check_alike(other, result)
    assert "Not comparable" in join(other, result).remarks[0]


def test_results_of_different_feature_weights_are_not_compared(result):
    other = replace(result, measures={"fid": {**result.measures["fid"], "weights_sha256": "d" * 64}})
    with pytest.raises(UsageError, match="fid was measured with another weights_sha256: dddd"):
        check_alike(other, result)


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
    check_alike(ours, Result.load(tmp_path / "eval.json"))
    with pytest.raises(UsageError, match=f"teacher was measured with another {said}"):
        check_alike(other, ours)


def test_joining_keeps_every_subject_once_and_all_its_figures(result):
    again = replace(result, entries=[entry("ours", 4, 12.5)], remarks=[])
    joined = join(again, result)
    check_alike(again, result)
    four = [each for each in joined.entries if each.label == "ours" and each.sampling["steps"] == 4]
    assert len(joined.entries) == 3
    assert len(four) == 1
    assert four[0].figures == {"fid": Figure(12.5), "clip": Figure(30.0, 29.0, 31.0)}


def test_the_baseline_is_the_one_of_the_same_settings_else_the_first(result):
    same = entry("other", 8, 9.0, baseline=True)
    entries = [*result.entries, same]
    assert baseline_of(entries[2], entries) is same
    assert baseline_of(entries[1], entries) is entries[0]
    assert baseline_of(entries[0], entries) is None


def test_the_table_marks_the_best_and_the_change(result):
    table = rows(result)
    assert [row.baseline for row in table] == [True, False, False]
    assert [row.cells[0].best for row in table] == [False, False, True]
    assert [row.cells[0].change for row in table] == ["", "+20%", "+10%"]
    assert table[1].cells[1].interval == "±1.00"
    assert best("clip", result.entries) is None  # one value has no rival


def test_the_report_holds_everything_and_escapes_it(result):
    pictures = {i: Image.new("RGB", (8, 8), "red") for i in range(2)}
    entries = [replace(each, samples=pictures) for each in result.entries]
    html = page(replace(result, entries=entries, captions=["a <fox>", "a dog"]))
    assert "a &lt;remark&gt;" in html
    assert "a &lt;fox&gt;" in html
    assert html.count("data:image/png;base64,") == 6
    assert "<svg" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched


def test_lines_of_a_plot_are_subjects_and_lone_baselines_are_levels(result):
    lines = lines_of(result, "fid", "steps")
    assert [(line.name, line.level, [point.x for point in line.points]) for line in lines] == [
        ("ours", False, [4.0, 8.0]),
        ("teacher", True, [50.0]),
    ]


def test_plots_are_well_formed_whatever_the_values():
    from xml.etree import ElementTree

    lines = [
        Line("a & b", [Point(4, 1.0, 0.5, 1.5), Point(8, 1.0)]),
        Line("level", [Point(50, 1.0)], level=True),
    ]
    assert ElementTree.fromstring(plot("<title>", "x", "y", lines)).tag.endswith("svg")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.2, 3.3), (-5, 1234), (7, 7), (0, 0)])
def test_ticks_are_few_and_hold_the_values(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert found[0] <= low <= high <= found[-1] + 1e-9


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_computes_and_shows(name):
    assert METRICS[name].what
    assert set(METRICS[name].columns) <= set(COLUMNS)
