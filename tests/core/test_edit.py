"""Starting from a picture and keeping part of one."""

import pytest
import torch

from tdd_cli.core.edit import keep_outside, last_part
from tdd_cli.core.sampler import sample
from tdd_cli.core.schedule import make_betas, vp
from tdd_cli.core.times import equal, solver_grid

SCHEDULE = vp(make_betas("scaled_linear", 0.00085, 0.012))
TIMES = equal(solver_grid(250), 4)


@pytest.mark.parametrize(("strength", "left"), [(1.0, 4), (0.75, 3), (0.74, 2), (0.5, 2), (0.25, 1)])
def test_strength_leaves_the_last_steps(strength, left):
    assert torch.equal(last_part(TIMES, strength), TIMES[4 - left :])


@pytest.mark.parametrize("strength", [0.0, 0.24, 1.01, -1.0])
def test_a_strength_that_leaves_no_step_is_refused(strength):
    with pytest.raises(ValueError, match=r"strength must be 1/4\.\.1 for 4 steps, got"):
        last_part(TIMES, strength)


def test_what_the_mask_leaves_out_is_the_given_picture_at_every_noise_level():
    given, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    hold = keep_outside(SCHEDULE, given, noise, mask, TIMES)
    out = [x for x, _ in sample(SCHEDULE, lambda x, t: torch.tanh(x), noise, TIMES, hold=hold)]
    for x, t in zip(out[:-1], TIMES[1:], strict=True):
        torch.testing.assert_close(x[..., :4], SCHEDULE.mix(given, noise, t)[..., :4])
    assert torch.equal(out[-1][..., :4], given[..., :4])
    assert not torch.allclose(out[-1][..., 4:], given[..., 4:])


def test_a_mask_of_everything_changes_nothing():
    given, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hold = keep_outside(SCHEDULE, given, noise, torch.ones(1, 1, 8, 8), TIMES)
    free = list(sample(SCHEDULE, lambda x, t: torch.tanh(x), noise, TIMES))[-1][0]
    held = list(sample(SCHEDULE, lambda x, t: torch.tanh(x), noise, TIMES, hold=hold))[-1][0]
    torch.testing.assert_close(held, free)
