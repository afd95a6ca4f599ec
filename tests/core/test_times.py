"""The teacher's grid and the inference schedules, number by number."""

import pytest
import torch

from tdd_cli.core.times import draw_teacher_steps, early, equal, explicit, largest_gap, solver_grid, stops

GRID = solver_grid(250)

EQUAL = {
    4: [999, 751, 499, 251],
    5: [999, 799, 599, 399, 199],
    6: [999, 835, 667, 499, 335, 167],
    7: [999, 859, 715, 571, 431, 287, 143],
    8: [999, 875, 751, 627, 499, 375, 251, 127],
}
EARLY = {
    4: [999, 751, 499, 251],
    5: [999, 875, 751, 499, 251],
    6: [999, 875, 751, 627, 499, 251],
    7: [999, 875, 751, 627, 499, 375, 251],
    8: [999, 875, 751, 627, 499, 375, 251, 127],
}
STOPS = {
    250: [0, 127, 143, 167, 199, 251, 287, 335, 375, 399, 431,
          499, 571, 599, 627, 667, 715, 751, 799, 835, 859, 875],
    50: [0, 139, 159, 179, 199, 259, 299, 339, 379, 399, 439,
         499, 579, 599, 639, 679, 719, 759, 799, 839, 859, 879],
}  # fmt: skip


def test_the_grid_of_250_points_runs_3_7_to_999():
    assert GRID[:2].tolist() == [3, 7]
    assert (GRID[-1].item(), len(GRID)) == (999, 250)


@pytest.mark.parametrize("k", EQUAL)
def test_equal_schedules(k):
    assert equal(GRID, k).tolist() == EQUAL[k]


def test_equal_schedule_of_4_on_50_points():
    assert equal(solver_grid(50), 4).tolist() == [999, 759, 499, 259]


@pytest.mark.parametrize("k", EARLY)
def test_early_schedules(k):
    assert early(GRID, k, 4, 8).tolist() == EARLY[k]


@pytest.mark.parametrize(("k_min", "k_max"), [(1, 8), (2, 5), (3, 7), (4, 6), (4, 16), (7, 8), (5, 5)])
def test_early_schedules_of_other_ranges_stay_on_the_targets(k_min, k_max):
    targets = set(stops(GRID, k_min, k_max).tolist())
    for k in range(k_min, k_max + 1):
        times = early(GRID, k, k_min, k_max)
        assert len(times) == k
        assert times[0] == 999
        assert (times[:-1] > times[1:]).all()
        assert set(times[1:].tolist()) <= targets


@pytest.mark.parametrize("points", [20, 50, 250])
def test_there_is_an_early_schedule_for_every_number_of_every_range(points):
    grid = solver_grid(points)
    for k_min in range(1, 13):
        for k_max in range(k_min, 17):
            targets = {*stops(grid, k_min, k_max).tolist(), int(grid[-1])}
            for k in {k_min, (k_min + k_max) // 2, k_max}:
                times = early(grid, k, k_min, k_max).tolist()
                assert len(set(times)) == k
                assert set(times) <= targets


def test_explicit_schedules_are_taken_as_they_are():
    assert explicit([999, 500, 3]).tolist() == [999, 500, 3]


@pytest.mark.parametrize("given", [[], [3, 999], [5, 5], [1000], [4, -1]])
def test_explicit_schedules_must_descend_within_the_timesteps(given):
    with pytest.raises(ValueError, match=r"must descend within 999\.\.0, got"):
        explicit(given)


@pytest.mark.parametrize("points", STOPS)
def test_the_target_set(points):
    assert stops(solver_grid(points), 4, 8).tolist() == STOPS[points]


@pytest.mark.parametrize(("points", "gap"), [(250, 252), (50, 260)])
def test_the_longest_jump_of_four_steps(points, gap):
    assert largest_gap(solver_grid(points), 4) == gap


def test_teacher_steps_go_one_grid_point_down_and_the_first_one_to_0():
    t, t_prev = draw_teacher_steps(GRID, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(t_prev, torch.where(t == 3, 0, t - 4))
    assert set(t.tolist()) == set(GRID.tolist())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: solver_grid(0),
        lambda: solver_grid(1001),
        lambda: equal(GRID, 0),
        lambda: equal(GRID, 251),
        lambda: stops(GRID, 5, 4),
        lambda: stops(GRID, 0, 4),
        lambda: early(GRID, 9, 4, 8),
        lambda: early(GRID, 3, 4, 8),
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
