"""The sampling loop: exact answers, seeds, and no reading back from the device."""

from itertools import pairwise

import pytest
import torch

from reads import NoReads
from tdd_cli.core.clip import dynamic_threshold
from tdd_cli.core.sampler import ImageNoise, plan, sample, undershoot
from tdd_cli.core.schedule import edm, flow, make_betas, vp
from tdd_cli.core.times import equal, solver_grid

SCHEDULE = vp(make_betas("scaled_linear", 0.00085, 0.012))
GRID = solver_grid(250)


def toward(x0):
    """The perfect network for data that is the point x0."""

    def denoise(x, t):
        alpha, sigma = SCHEDULE.at(t, x)
        return (x - alpha * x0) / sigma

    return denoise


def rough(x, t):
    return torch.tanh(x.roll(1, -1) + t.reshape(-1, 1, 1, 1) / 1000)


def last(steps):
    return list(steps)[-1][0]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 2, 4, 8, 50])
def test_with_a_perfect_network_every_schedule_ends_on_the_data(k, eta):
    noise = ImageNoise([1, 2])
    x = noise.draw((4, 4, 4))
    fresh = [noise.draw((4, 4, 4)) for _ in range(k - 1)]
    out = last(sample(SCHEDULE, toward(0.7), x, equal(GRID, k), eta=eta, noise=fresh))
    torch.testing.assert_close(out, torch.full_like(out, 0.7), atol=1e-4, rtol=0)


@pytest.mark.parametrize("schedule", [SCHEDULE, flow(3.0), edm()], ids=["vp", "flow", "edm"])
def test_without_eta_a_sample_is_a_chain_of_jumps(schedule):
    times, x = equal(GRID, 4), torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = x
    for t, t_next in pairwise(times):
        expected = schedule.jump(expected, rough(expected, t), t, t_next)
    expected, _ = schedule.split(expected, rough(expected, times[-1]), times[-1])
    torch.testing.assert_close(last(sample(schedule, rough, x, times)), expected)


def test_eta_lowers_the_landing_by_its_share():
    assert undershoot(equal(GRID, 4), 0.3).tolist() == [699, 525, 349, 175]
    assert undershoot(equal(GRID, 4), 1.0).tolist() == [0, 0, 0, 0]


def test_clipping_acts_on_the_first_steps_only():
    x = ImageNoise([0]).draw((4, 8, 8))
    clip = lambda x0: dynamic_threshold(x0, low=0.5, high=0.5)  # noqa: E731
    steps = [
        x0.abs().max().item() for _, x0 in sample(SCHEDULE, rough, x, equal(GRID, 4), clip=clip, clip_steps=2)
    ]
    assert [value <= 0.5 + 1e-6 for value in steps] == [True, True, False, False]


def test_a_picture_depends_on_its_seed_not_on_its_batch():
    def picture(seeds):
        noise = ImageNoise(seeds)
        x, fresh = noise.draw((4, 8, 8)), [noise.draw((4, 8, 8)) for _ in range(3)]
        return last(sample(SCHEDULE, rough, x, equal(GRID, 4), eta=0.2, noise=fresh))

    assert torch.equal(picture([7, 8, 9])[2], picture([9])[0])
    assert torch.equal(picture([9, 7])[0], picture([9])[0])


def test_a_schedule_may_start_anywhere():
    x0 = torch.full((2, 4, 4, 4), 0.7)
    times = equal(GRID, 8)[3:]
    x = SCHEDULE.mix(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), times[0])
    torch.testing.assert_close(last(sample(SCHEDULE, toward(0.7), x, times)), x0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", [SCHEDULE, flow(3.0), edm()], ids=["vp", "flow", "edm"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_steps_coefficients_are_the_formulas(schedule, eta):
    times = equal(GRID, 4)
    x, pred, z = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for step, t, t_next in zip(plan(schedule, times, eta), times, times[1:], strict=False):
        x0, eps = schedule.split(x, pred, t)
        clipped = dynamic_threshold(x0)
        s = undershoot(t_next, eta)
        expected = schedule.renoise(schedule.mix(clipped, eps, s), z, s, t_next)
        x_next, given = step(x, pred, z, dynamic_threshold)
        scale = x0.abs().max().item()  # what is subtracted may be large beside the result
        torch.testing.assert_close(given, clipped, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(x_next, expected, atol=2e-6 * scale + 1e-5, rtol=1e-4)


def test_each_step_may_have_its_own_network():
    x, times = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), equal(GRID, 4)
    seen = []

    def network(name):
        return lambda x, t: seen.append((name, t[0].item())) or rough(x, t)

    last(sample(SCHEDULE, [network(name) for name in "abcd"], x, times))
    assert seen == list(zip("abcd", times.tolist(), strict=True))


def test_the_networks_are_told_the_time_of_every_picture():
    x = torch.randn(3, 4, 4, 4)
    last(sample(SCHEDULE, lambda x, t: (t.shape == (3,) or pytest.fail(str(t.shape))) * x, x, equal(GRID, 2)))


def test_nothing_is_read_back_between_the_steps():
    x, times = torch.randn(2, 4, 4, 4), equal(GRID, 4)
    fresh = torch.randn(3, 2, 4, 4, 4)
    with NoReads():
        last(sample(SCHEDULE, rough, x, times, eta=0.2, noise=fresh, clip=dynamic_threshold, clip_steps=1))


def test_it_yields_as_many_times_as_there_are_steps():
    x = torch.randn(1, 4, 4, 4)
    assert [x_t.shape for x_t, _ in sample(SCHEDULE, rough, x, equal(GRID, 5))] == [x.shape] * 5
