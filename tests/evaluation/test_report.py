"""The page and its plots: all of a result, escaped, nothing fetched, each subject a line of its own."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context
from PIL import Image

from tdd_cli.evaluation.metrics import Figure
from tdd_cli.evaluation.plot import COLOURS, DODGE, INK, Line, Point, looks, plot
from tdd_cli.evaluation.report import lines_of, page, plots
from tdd_cli.evaluation.results import Entry, Result

SVG = "{http://www.w3.org/2000/svg}"


def entry(label, steps, fid, *, weights=None, guidance=1.0, baseline=False, apart="", **more):
    sampling = {"steps": steps, "guidance": guidance, "eta": 0.0, "grid": 250}
    figures = {"fid": Figure(fid, environment="cpu"), **more}
    subject = {"kind": "model", "model": "m", "weights": weights or label, "sampling": sampling}
    return Entry(label, subject, 100, 0, figures, baseline=baseline, apart=apart)


def numbers(svg):
    """The texts of a plot that are numbers."""
    found = [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    return [text for text in found if re.fullmatch(r"[\d.]+", text)]


@pytest.fixture
def result():
    return Result(
        protocol={
            "set": "emoji",
            "version": 1,
            "n": 100,
            "seeds": "0",
            "reference": {"what": "all <emoji>", "moved": {"shift": 4}},
        },
        protocol_sha256="a" * 64,
        remarks=["a <remark>"],
        measures={
            "fid": {"what": "Frechet", "network": "emoji", "weights_sha256": "b" * 64, "input": "64 px"}
        },
        environments={"cpu": {"device": "cpu", "versions": {"torch": "2", "xformers": None}}},
        entries=[
            entry("teacher", 50, 10.0, baseline=True),
            entry("ours", 4, 12.0, clip=Figure(30.0, 29.0, 31.0)),
            entry("ours", 8, 11.0),
        ],
    )


def test_the_report_holds_everything_and_escapes_it(result):
    pictures = {i: Image.new("RGB", (8, 8), "red") for i in range(2)}
    entries = [replace(each, samples=pictures) for each in result.entries]
    html = page(replace(result, entries=entries, captions=["a <fox>", "a dog"]))
    assert "a &lt;remark&gt;" in html
    assert "a &lt;fox&gt;" in html
    assert html.count("data:image/png;base64,") == 6
    assert "<svg" in html
    assert "http" not in re.sub(r"http://www.w3.org/\d+/(svg|xlink)", "", html)  # nothing is fetched


def test_records_are_readable_on_the_page(result):
    html = page(result)
    assert "all &lt;emoji&gt;; moved (shift 4)" in html
    assert "device cpu; versions (torch 2)" in html
    assert "kind model; model m; weights ours" in html
    assert "All rows: guidance 1, eta 0, grid 250." in html
    assert "{&#39;" not in html


def test_every_figure_has_its_title_beside_it_for_narrow_windows(result):
    cells = re.findall(r'<td data-label="([^"]*)"[^>]*>([^ <]*)', page(result))
    assert ("FID\u00a0↓", "12.00") in cells
    assert ("steps", "8") in cells


def test_subjects_of_one_name_are_told_apart_on_the_page(result):
    entries = [entry("s", 4, 9.0, weights="1" * 64), entry("s", 8, 8.0, weights="2" * 64)]
    html = page(replace(result, entries=entries))
    assert '<span class="mark">111111</span>' in html
    assert "<dt>s 222222</dt>" in html
    assert 'class="mark"' not in page(result)


def test_where_figures_are_of_two_machines_it_says_whose(result):
    other = entry("theirs", 4, 9.0, clip=Figure(30.0, environment="gpu"))
    both = {**result.environments, "gpu": {"device": "cuda"}}
    html = page(replace(result, environments=both, entries=[*result.entries, other]))
    assert "device cuda. Figures of theirs" in html


def test_lines_of_a_plot_are_subjects_and_lone_baselines_are_levels(result):
    lines = lines_of(result, "fid", "steps")
    assert [(line.name, line.level, [point.x for point in line.points]) for line in lines] == [
        ("ours", False, [4.0, 8.0]),
        ("teacher, steps 50", True, [50.0]),
    ]


def test_subjects_of_one_name_are_lines_of_their_own(result):
    entries = [
        entry("s", k, k + w, weights=str(w) * 64, guidance=g)
        for w in (1, 2)
        for k in (4, 8)
        for g in (1.0, 2.0)
    ]
    lines = lines_of(replace(result, entries=entries), "fid", "steps")
    assert [(line.name, [(point.x, point.y) for point in line.points]) for line in lines] == [
        ("s 111111, guidance 1", [(4, 5), (8, 9)]),
        ("s 111111, guidance 2", [(4, 5), (8, 9)]),
        ("s 222222, guidance 1", [(4, 6), (8, 10)]),
        ("s 222222, guidance 2", [(4, 6), (8, 10)]),
    ]
    assert [line.group for line in lines[::2]] == [line.group for line in lines[1::2]]
    assert len({line.group for line in lines}) == 2


def test_what_was_measured_otherwise_joins_no_line(result):
    entries = [entry("s", 4, 5.0), entry("s", 8, 4.0), entry("s", 6, 1.0, apart="their protocols differ")]
    lines = lines_of(replace(result, entries=entries), "fid", "steps")
    assert [(line.name, len(line.points)) for line in lines] == [("s", 2), ("s [measured otherwise]", 1)]


def test_equal_pictures_are_named_and_do_not_set_the_axis(result):
    entries = [
        entry("teacher", 50, 10.0, baseline=True, psnr=Figure(100.0, 100.0, 100.0)),
        entry("ours", 4, 12.0, psnr=Figure(15.0, 14.9, 15.1)),
        entry("ours", 8, 11.0, psnr=Figure(18.0, 17.9, 18.1)),
    ]
    shown = replace(result, entries=entries)
    *_, level = lines_of(shown, "psnr", "steps")
    assert (level.name, level.points) == ("teacher, steps 50: equal pictures, off the scale", [])
    (svg,) = [each for each in plots(shown) if "PSNR" in each]
    assert "off the scale" in svg
    assert 17 <= max(map(float, numbers(svg))) <= 20


def test_plots_are_well_formed_whatever_the_values():
    lines = [
        Line("a & b", [Point(4, 1.0, 0.5, 1.5), Point(8, 1.0)]),
        Line("level", [Point(50, 1.0)], level=True),
        Line("none", []),
    ]
    for some in (lines, lines[1:], lines[2:], [], lines * 5):
        assert ElementTree.fromstring(plot("<title>", "x", "y", some)).tag.endswith("svg")


def test_long_names_are_wrapped_in_the_legend_not_cut():
    name = "a-run-with-a-long-name, " * 5
    texts = [
        each.text or ""
        for each in ElementTree.fromstring(plot("t", "x", "y", [Line(name, [Point(1, 1)])])).iter()
    ]
    assert "".join(" ".join(texts).split()).count("a-run-with-a-long-name") == 5
    assert max(map(len, texts[1:])) < 160


def test_error_bars_at_one_x_stand_side_by_side():
    bars = [Point(4, 1.0, 0.5, 1.5), Point(8, 1.0, 0.5, 1.5)]
    lines = [Line("a", bars), Line("level", [Point(0, 1.0, 0.9, 1.1)], level=True), Line("b", bars)]
    shifts = [style.shift for style in looks(lines, gap=1.0)]
    assert shifts == [-DODGE / 2, 0, DODGE / 2]
    assert looks([lines[0]], gap=1.0)[0].shift == 0
    crowded = [style.shift for style in looks([Line(str(i), bars) for i in range(20)], gap=0.1)]
    assert max(crowded) - min(crowded) == pytest.approx(0.04)
    assert len(set(crowded)) == 20


def test_lines_of_a_group_have_one_colour_and_no_two_lines_look_alike():
    lines = [Line(f"{g} {i}", [Point(1, 1)], group=str(g)) for g in range(4) for i in range(5)]
    found = looks(lines, gap=1.0)
    assert [style.colour for style in found] == [COLOURS[g] for g in range(4) for _ in range(5)]
    assert len({(style.colour, style.mark, style.dashes) for style in found}) == 20
    alone = looks([Line(str(i), [Point(1, 1)]) for i in range(16)], gap=1.0)
    assert len({(style.colour, style.mark) for style in alone}) == 16
    assert {style.dashes for style in alone} == {"-"}


def test_the_x_axis_has_the_values_themselves_where_there_is_room():
    few = plot("t", "x", "y", [Line("a", [Point(x, 100 * x) for x in (4, 5, 6, 7, 8)])])
    assert numbers(few)[:5] == ["4", "5", "6", "7", "8"]
    apart = plot("t", "x", "y", [Line("a", [Point(x, 100 * x) for x in (4, 5, 6, 50)])])
    assert not {"4", "5", "6"} & set(numbers(apart))


def test_axes_hold_values_and_error_bars_of_all_lines():
    lines = [Line("a", [Point(4, 3.0, 1.0, 7.0), Point(8, 4.0)]), Line("b", [Point(0, 11.0)], level=True)]
    shown = [float(each) for each in numbers(plot("t", "x", "y", lines))[2:]]
    assert min(shown) <= 2
    assert max(shown) >= 10


def test_plots_stand_in_a_page_beside_others():
    lines = [Line("a", [Point(4, 1.0, 0.5, 1.5), Point(8, 1.0)])]
    both = [plot(name, "x", "y", lines) for name in ("one", "two")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in both]
    assert ids[0].isdisjoint(ids[1])
    with rc_context({"font.size": 30, "axes.facecolor": "black"}):  # a user's own settings
        assert both[0] == plot("one", "x", "y", lines)
    assert INK not in both[0]
    assert "currentColor" in both[0]


def test_a_known_group_has_one_colour_in_every_plot():
    lines = [Line(name, [Point(4, 1.0), Point(8, 2.0)], group=name) for name in ("a", "b")]
    both = looks(lines, 0.3, known=("b", "a"))
    alone = looks(lines[:1], 0.3, known=("b", "a"))
    assert alone[0].colour == both[0].colour != both[1].colour
    assert looks(lines[:1], 0.3)[0].colour == both[1].colour  # else the first is the first
