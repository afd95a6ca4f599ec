"""The settings of a picture: what they cost, what they visit, what is refused."""

from dataclasses import replace

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.inference import Inference
from tdd_cli.sampling import Sampling


@pytest.mark.parametrize(
    ("sampling", "calls"),
    [
        (Sampling(steps=4), 4),
        (Sampling(steps=4, guidance=2.0), 8),
        (Sampling(steps=4, guidance=(2.0, 2.0, 1.0, 1.0)), 6),
        (Sampling(steps=4, guidance=4.5, guidance_mode="post", teacher_guidance=4.5), 4),
        (Sampling(steps=4, guidance=1.0, guidance_mode="post", teacher_guidance=4.5), 8),
        (Sampling(steps=4, guidance=2.0, strength=0.5), 4),
        (Sampling(steps=4, guidance=(2.0, 2.0, 1.0, 1.0), strength=0.5), 2),
    ],
)
def test_network_calls(sampling, calls):
    assert sampling.calls == calls


def test_an_explicit_schedule_is_visited_as_given():
    assert Sampling(steps=3, schedule=(999, 500, 100)).times().tolist() == [999, 500, 100]


def test_strength_visits_the_last_times_only():
    assert Sampling(steps=4, strength=0.5).times().tolist() == [499, 251]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(steps=300), "no equal schedule of 300 steps"),
        (Sampling(steps=9, schedule="early"), "no early schedule of 9 steps"),
        (Sampling(steps=4, schedule=(999, 500)), "no schedule of 4 steps: 2 timesteps are given"),
        (Sampling(steps=2, schedule=(5, 500)), "must descend"),
        (Sampling(steps=4, strength=0.1), "strength must be"),
        (Sampling(steps=4, guidance=(1.0, 2.0)), "2 guidance scales for 4 steps"),
        (Sampling(guidance_mode="post"), "needs the scale the student was distilled at"),
        (Sampling(steps=12), r"distilled for 4\.\.8 steps, not 12"),
        (Sampling(steps=4, clip_x0=5), "5 steps cannot be clipped of 4"),
        (Sampling(clip_low=3.0, clip_high=2.0), "low <= high, got 3 > 2"),
    ],
)
def test_settings_that_cannot_be_are_usage_errors(sampling, message):
    with pytest.raises(UsageError, match=message):
        sampling.check()


def test_force_allows_other_numbers_of_steps():
    replace(Sampling(), steps=12).check(force=True)


def test_sampling_of_inference_takes_every_setting_over():
    inference = Inference(
        family="sdxl", model="m", method="tdd", teacher_grid=50, k_min=2, k_max=6, resolution=64, steps=3,
        guidance=1.5, eta=0.1, schedule="early", clip_x0=1, clip_low=2.0, clip_high=3.0, clip_ratio=0.9,
        guidance_mode="post", teacher_guidance=4.5,
    )  # fmt: skip
    assert Sampling.of(inference) == Sampling(3, 1.5, 0.1, "early", 1, 2.0, 3.0, 50, 2, 6, 0.9, "post", 4.5)
