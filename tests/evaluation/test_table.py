"""The table: no number is ever broken, subjects are told apart, and no setting is lost."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tdd_cli.evaluation.metrics import COLUMNS, Figure
from tdd_cli.evaluation.results import Entry, Result, best
from tdd_cli.evaluation.table import rows
from tdd_cli.evaluation.terminal import show
from tdd_cli.evaluation.wording import number, setting, settings_said, settings_shown, words

EVERY = {name: Figure(1234.567 + i, 1234.0 + i, 1235.2 + i) for i, name in enumerate(COLUMNS)}


def entry(label, steps, fid=10.0, *, weights=None, baseline=False, apart="", figures=None, **sampling):
    settings = {"steps": steps, "guidance": 1.0, "eta": 0.0, "clip_x0": 0, "grid": 250, **sampling}
    subject = {"kind": "model", "weights": weights or label, "sampling": settings}
    found = {"fid": Figure(fid)} if figures is None else figures
    return Entry(label, subject, 100, 0, found, baseline=baseline, apart=apart)


def folder(label, sha256):
    return Entry(label, {"kind": "pictures", "pictures_sha256": sha256}, 100, 2, {"fid": Figure(3.0)})


def result(*entries):
    return Result({"set": "emoji", "n": 100}, "a" * 64, [], {}, {}, list(entries))


def printed(shown, width):
    text = io.StringIO()
    show(shown, Console(file=text, width=width, highlight=False))
    return text.getvalue()


def test_the_table_marks_the_best_and_the_change():
    ours = [entry("ours", 4, figures={"fid": Figure(12.0), "clip": Figure(30.0, 29.0, 31.0)})]
    table = rows(result(entry("teacher", 50, 10.0, baseline=True), *ours, entry("ours", 8, 11.0)))
    assert [row.baseline for row in table] == [True, False, False]
    assert [row.cells[0].best for row in table] == [False, False, True]
    assert [row.cells[0].change for row in table] == ["", "+20%", "+10%"]
    assert table[1].cells[1].interval == "±1.00"
    assert best("clip", ours) is None  # one value has no rival


def test_what_all_have_is_not_the_best():
    assert not any(row.cells[0].best for row in rows(result(entry("a", 4, 11.0), entry("b", 4, 11.0))))


@pytest.mark.parametrize(
    ("name", "before", "change"),
    [
        ("fid", Figure(10.0), "+20%"),
        ("fid", Figure(11.99), "0%"),
        ("fid", Figure(0.0), ""),
        ("kid", Figure(-0.1, -0.3, 0.1), "+12.10"),
        ("psnr", Figure(13.5), "-1.50"),
        ("psnr", Figure(100.0), ""),  # equal pictures
        ("seconds", Figure(10.0, environment="a"), "+20%"),
        ("seconds", Figure(10.0, environment="b"), ""),
    ],
)
def test_changes_are_shown_where_they_say_something(name, before, change):
    base = entry("teacher", 50, baseline=True, figures={name: before})
    ours = entry("ours", 4, figures={name: Figure(12.0, environment="a" if name == "seconds" else "")})
    assert rows(result(base, ours))[1].cells[0].change == change


def test_what_was_measured_otherwise_is_neither_best_nor_compared():
    other = entry("past", 4, 1.0, baseline=True, apart="their protocols differ")
    table = rows(result(other, entry("ours", 4, 12.0), entry("ours", 8, 11.0)))
    assert [row.cells[0].best for row in table] == [False, False, True]
    assert [row.cells[0].change for row in table] == ["", "", ""]
    assert "past (baseline) [measured otherwise]" in printed(result(other, entry("ours", 4)), 100)


def test_times_of_two_machines_have_no_best():
    figures = [{"seconds": Figure(value, environment=str(value))} for value in (1.0, 2.0)]
    table = rows(result(*(entry("a", i, figures=figure) for i, figure in enumerate(figures, 4))))
    assert not any(row.cells[0].best for row in table)


def test_equal_pictures_have_no_number():
    base = entry("teacher", 50, baseline=True, figures={"psnr": Figure(100.0, 100.0, 100.0)})
    assert [cell.text for cell in rows(result(base))[0].cells] == ["equal"]


def test_subjects_of_one_name_are_told_apart():
    one, two = "1111117777", "2222227777"
    shown = result(
        entry("s", 4, weights=one), entry("s", 4, weights=two), entry("t", 4), entry("s", 8, weights=one)
    )
    assert [(row.label, row.mark, row.again) for row in rows(shown)] == [
        ("s", "111111", False),
        ("s", "111111", True),
        ("s", "222222", False),
        ("t", "", False),
    ]
    folders = rows(result(folder("drawn", "3" * 64), folder("drawn", "4" * 64)))
    assert [row.mark for row in folders] == ["333333", "444444"]
    assert "drawn 333333 [2 unreadable]" in printed(
        result(folder("drawn", "3" * 64), folder("drawn", "4")), 80
    )


def test_subjects_of_one_name_and_equal_weights_are_told_apart_too():
    small, large = (
        replace(each, subject={**each.subject, "size": size})
        for each, size in ((entry("s", 4, weights="w"), 64), (entry("s", 4, weights="w"), 128))
    )
    marks = [row.mark for row in rows(result(small, large))]
    assert len(set(marks)) == 2
    assert all(re.fullmatch("[0-9a-f]{6}", mark) for mark in marks)


def test_rows_of_a_subject_stand_together_by_steps_and_guidance():
    shown = result(
        entry("a", 8),
        entry("b", 4),
        entry("a", 4, guidance=2.0),
        entry("a", 4),
        entry("t", 50, baseline=True),
    )
    assert [(row.label, *row.settings) for row in rows(shown)] == [
        ("t", "50", "1"),
        ("a", "4", "1"),
        ("a", "4", "2"),
        ("a", "8", "1"),
        ("b", "4", "1"),
    ]


def test_settings_have_a_column_where_they_differ_and_are_said_where_not():
    equal = result(entry("a", 4), entry("a", 8))
    assert settings_shown(equal) == ["steps"]
    assert settings_said(equal) == "All rows: guidance 1, eta 0, clip x0 off, grid 250"
    assert settings_said(equal) in printed(equal, 100)
    differ = result(entry("a", 4), entry("a", 4, eta=0.2, clip_x0=1))
    assert settings_shown(differ) == ["steps", "eta", "clip_x0"]
    assert rows(differ)[1].settings == ["4", "0.2", "1 step"]


def test_a_students_own_grid_is_no_column():
    teacher = entry("teacher", 50, grid=1000, baseline=True)
    own = result(teacher, entry("a", 4), entry("b", 4))
    assert settings_shown(own) == ["steps"]
    assert settings_said(own).endswith("grid 1000 (teacher), 250 (a, b)")
    assert settings_shown(result(teacher, entry("a", 4), entry("a", 4, grid=50))) == ["steps", "grid"]


def test_pictures_that_existed_already_have_no_settings():
    assert settings_shown(result(folder("drawn", "1"))) == []
    assert settings_said(result(folder("drawn", "1"))) == ""
    both = result(folder("drawn", "1"), entry("a", 4))
    assert settings_said(both).startswith("All rows that were drawn: guidance 1")


@pytest.mark.parametrize("width", [40, 80, 100, 200, 400])
def test_no_number_is_broken_at_any_width(width):
    long = "stable-diffusion-xl-base-1.0 + an-adapter-with-a-name-of-its-own"
    shown = result(
        entry("teacher", 50, baseline=True, figures=EVERY),
        entry(long, 4, figures=EVERY),
        entry(long, 8, figures=EVERY, guidance=1.5),
    )
    text = printed(shown, width)
    for row in rows(shown):
        for cell in row.cells:
            pattern = r"\s+".join(map(re.escape, filter(None, [cell.text, cell.interval, cell.change])))
            assert re.search(rf"(?m)^.*{pattern}(\s|$)", text), cell
    assert ("…" in text) == (width < 200)  # a long name stands once where it has no room
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width
    tables = text.count("steps")
    assert tables == {40: 12, 80: 8, 100: 6, 200: 2, 400: 1}[width]


def test_figures_are_aligned_part_by_part():
    figures = [{"kid": Figure(1.0, 0.5, 1.5)}, {"kid": Figure(11.0, 9.0, 13.0)}, {}]
    lines = printed(
        result(*(entry("a", i, figures=each) for i, each in enumerate(figures, 4))), 80
    ).splitlines()
    assert [line[-11:] for line in lines[1:3]] == [" 1.00 ±0.50", "11.00 ±2.00"]
    assert lines[3].rstrip().endswith("    -")


def test_names_are_no_markup():
    assert "[bold]x[/bold]" in printed(result(entry("[bold]x[/bold]", 4)), 80)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("guidance", 1.0, "1"),
        ("guidance", [2.0, 1.5], "2,1.5"),
        ("clip_x0", 0, "off"),
        ("clip_x0", 3, "3 steps"),
        ("schedule", "equal", "equal"),
        ("eta", None, ""),
    ],
)
def test_settings_are_said_in_words(name, value, said):
    assert setting(name, value) == said


def test_records_are_said_in_words():
    record = {"what": "all emoji", "n": 3, "moved": {"shift_px": 4, "turn": 8.0}, "prefix": "", "left": None}
    assert words(record) == "all emoji; n 3; moved (shift px 4; turn 8); prefix none"
    assert words(None) == words({}) == "none"


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0.00"), (1.234, "1.23"), (0.0012, "0.0012"), (-3.0, "-3.00")]
)
def test_small_numbers_keep_something(value, said):
    assert number(value, 2) == said
