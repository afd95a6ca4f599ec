"""Sheets: which ways are drawn, each once, and where they stand."""

import pytest
from PIL import Image

from tdd_cli.errors import UsageError
from tdd_cli.sampling import Sampling
from tdd_cli.sheet import Sheet, compared, crossed, swept

OWN = Sampling(steps=4, teacher_guidance=6.0, grid=20, eta=0.2)


def test_compare_draws_the_teacher_slowly_at_the_distilled_guidance():
    teacher, four, short = compared("teacher,4,teacher:20")
    assert (teacher.label, four.label, short.label) == ("teacher, 50 steps", "4 steps", "teacher, 20 steps")
    drawn = teacher.sampling(OWN)
    assert teacher.teacher
    assert (drawn.steps, drawn.guidance, drawn.eta, drawn.grid) == (50, 6.0, 0.0, 250)
    assert short.sampling(OWN).steps == 20
    assert four.sampling(OWN) == OWN


def test_sweeps_cross():
    ways = crossed([swept("guidance=1,2"), swept("clip-x0=off,on")])
    assert [way.label for way in ways] == [
        "guidance 1, clip-x0 off",
        "guidance 1, clip-x0 on",
        "guidance 2, clip-x0 off",
        "guidance 2, clip-x0 on",
    ]
    assert ways[3].sampling(OWN).guidance == 2.0
    assert ways[3].sampling(OWN).clip_x0 == 1


def test_values_with_commas_are_parted_by_semicolons():
    assert [way.changes["guidance"] for way in swept("guidance=2,2,1,1;1")] == ["2,2,1,1", "1"]


@pytest.mark.parametrize("text", ["guidance", "guidance=", "guidance=1,,2", "cfg=1", "=1"])
def test_sweeps_of_nothing_are_refused(text):
    with pytest.raises(UsageError, match="is not SETTING=VALUE"):
        swept(text)


@pytest.mark.parametrize("text", ["teachers", "0", "4,,6", "teacher:0", "teacher:999", ""])
def test_comparisons_with_nothing_are_refused(text):
    with pytest.raises(UsageError, match="--compare"):
        compared(text)


def test_impossible_cells_are_refused_before_anything_is_drawn():
    with pytest.raises(UsageError, match="no equal schedule"):
        Sheet(OWN, compared("4,21")).cells()


def test_a_way_is_drawn_once_and_stands_in_its_cells():
    drawn = []

    def pictures(sampling, by_teacher):
        drawn.append((sampling.steps, sampling.clip_x0, by_teacher))
        return [Image.new("RGB", (64, 64), "blue" if by_teacher else "red")] * 2

    sheet = Sheet(OWN, compared("teacher,4"), crossed([swept("clip-x0=off,on")]))
    made = sheet.draw(["a fox", "a rocket"], pictures, title="of what", note="a note")
    assert drawn == [(50, 0, True), (4, 0, False), (4, 1, False)]
    colours = {colour: count for count, colour in made.getcolors(1 << 20)}
    assert colours[0, 0, 255] == colours[255, 0, 0] == 4 * 128 * 128  # nothing covers anything
