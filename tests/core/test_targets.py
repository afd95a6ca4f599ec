"""Target rules: METHOD vectors for tdd, properties for every rule in TARGETS."""

from itertools import pairwise

import pytest
import torch

from reads import NoReads
from tdd_cli.core.targets import TARGETS, nearby, pcm, tdd
from tdd_cli.core.times import equal, solver_grid, stops

GRID = solver_grid(250)
T_PREV = torch.cat([torch.zeros(1, dtype=torch.long), GRID[:-1]])  # [250], every end of a teacher step


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("points", [250, 50, 1000, 8])
@pytest.mark.parametrize("name", TARGETS)
def test_target_never_lies_above_t_prev(name, points):
    times = solver_grid(points)
    t_prev = torch.cat([torch.zeros(1, dtype=torch.long), times[:-1]]).repeat(40)
    s = TARGETS[name](times)(t_prev, generator())
    assert s.dtype == torch.long
    assert s.shape == t_prev.shape
    assert (s >= 0).all()
    assert (s <= t_prev).all()


@pytest.mark.parametrize("name", TARGETS)
def test_target_depends_on_its_generator_alone(name):
    select = TARGETS[name](GRID)
    assert torch.equal(select(T_PREV, generator(3)), select(T_PREV, generator(3)))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_will_do(name, batch):
    assert TARGETS[name](GRID)(T_PREV[-batch:], generator()).shape == (batch,)


@pytest.mark.parametrize("name", TARGETS)
def test_a_draw_reads_nothing_back_from_the_device(name):
    select = TARGETS[name](GRID)
    with NoReads():
        select(T_PREV, generator())


def test_lcm_lands_on_0():
    assert (TARGETS["lcm"](GRID)(T_PREV, None) == 0).all()


def test_pcm_lands_on_the_next_time_of_its_inference_schedule():
    edges = [*equal(GRID, 4).tolist(), 0]
    s = pcm(GRID, phases=4)(T_PREV, None)
    assert s.tolist() == [max(edge for edge in edges if edge <= t) for t in T_PREV.tolist()]


def test_ctm_lands_anywhere_below_uniformly():
    s = TARGETS["ctm"](GRID)(torch.full((40_000,), 399), generator())
    values, counts = s.unique(return_counts=True)
    assert values.tolist() == [0, *range(3, 400, 4)]
    assert counts.min() > 300  # of 396 expected
    assert counts.max() < 500


@pytest.mark.parametrize(
    ("t_prev", "candidates"),
    [
        (747, [499, 571, 599, 627, 667, 715]),
        (503, [251, 287, 335, 375, 399, 431, 499]),
        (995, [627, 667, 715, 751, 799, 835, 859, 875]),
        (251, [0, 127, 143, 167, 199, 251]),
        (0, [0]),
    ],
)
def test_tdd_candidates(t_prev, candidates):
    s = tdd(GRID, reach=260, eta=0.0)(torch.full((4000,), t_prev), generator())
    assert s.unique().tolist() == candidates


def test_tdd_candidates_over_all_of_t_prev():
    first, last = nearby(stops(GRID, 4, 8), T_PREV, 260)
    count = last - first + 1
    assert (count.min().item(), count.max().item()) == (1, 8)
    assert count.float().mean().item() == pytest.approx(5.83, abs=0.005)
    assert ((count == 1) & (first == 0)).sum() == 32
    assert ((first == 0) / count).mean().item() == pytest.approx(0.169, abs=0.001)  # P(s = 0)


@pytest.mark.parametrize("reach", [260, 261, 262, 263])
def test_any_reach_from_260_to_263_gives_the_same_candidates(reach):
    first, _ = nearby(stops(GRID, 4, 8), T_PREV, reach)
    expected, _ = nearby(stops(GRID, 4, 8), T_PREV, 260)
    assert torch.equal(first, expected)


def test_tdd_lowers_the_target_by_at_most_eta():
    s = tdd(GRID, k_min=4, k_max=4, eta=0.3)(torch.full((20_000,), 499), generator())
    near = s[s > 251]  # tau = 499; the others had tau = 251
    assert near.max() <= 499
    assert near.min() == 349  # floor(0.7 * 499)
    assert len(near) / len(s) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("points", "k_min", "k_max"), [(250, 4, 8), (50, 4, 8), (250, 1, 4), (100, 2, 3)])
def test_the_derived_reach_trains_every_jump_of_the_k_min_schedule(points, k_min, k_max):
    times = solver_grid(points)
    schedule = [*equal(times, k_min).tolist(), 0]
    select = tdd(times, k_min=k_min, k_max=k_max, eta=0.0)
    for upper, lower in pairwise(schedule[1:]):
        assert lower in select(torch.full((3000,), upper), generator()).tolist()


def test_a_reach_that_would_lose_the_k_min_schedule_is_refused():
    with pytest.raises(ValueError, match=r"at least 252.*got 251"):
        tdd(GRID, reach=251)
    with pytest.raises(ValueError, match="eta is a share"):
        tdd(GRID, eta=1.5)
    with pytest.raises(ValueError, match="window, steps, got 'stops'"):
        tdd(GRID, candidates="stops")


def test_candidates_of_steps_are_the_next_stop_of_every_number_of_steps():
    select = tdd(GRID, candidates="steps", eta=0.0)
    for t_prev in (995, 747, 503, 251, 3, 0):
        expected = {max(s for s in [*equal(GRID, k).tolist(), 0] if s <= t_prev) for k in range(4, 9)}
        drawn = select(torch.full((2000,), t_prev), generator()).tolist()
        assert set(drawn) == expected


def test_candidates_of_one_number_of_steps_are_the_phases_of_pcm():
    ours = tdd(GRID, k_min=4, k_max=4, candidates="steps", eta=0.0)(T_PREV, generator())
    assert torch.equal(ours, pcm(GRID, phases=4)(T_PREV, None))


def test_every_number_of_steps_is_drawn_as_often():
    drawn = tdd(GRID, candidates="steps", eta=0.0)(torch.full((20_000,), 995), generator())
    stops_of = [max(s for s in equal(GRID, k).tolist() if s <= 995) for k in range(4, 9)]
    for stop in stops_of:
        share = (drawn == stop).float().mean().item()
        assert share == pytest.approx(stops_of.count(stop) / 5, abs=0.02)


def test_steps_never_jump_farther_than_the_k_min_schedule_does():
    reached = (
        GRID[torch.searchsorted(GRID, T_PREV, right=True).clamp(max=249)]
        - tdd(GRID, candidates="steps", eta=0.0)(T_PREV, generator())
    ).max()
    assert reached <= 252
