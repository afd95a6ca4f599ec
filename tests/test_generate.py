"""The engine: the picture of a diffusers pipeline with TDDScheduler, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tdd_cli.errors import UsageError
from tdd_cli.families import load_family
from tdd_cli.generate import Sampling, draw, generate
from tdd_cli.run import Inference
from tdd_cli.scheduler import TDDScheduler


@pytest.fixture(scope="module", params=["sdxl", "sd15"])
def family(request, tiny_folders):
    return load_family(request.param, str(tiny_folders[request.param]))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(steps=4),
        Sampling(steps=5, schedule="early", eta=0.2),
        Sampling(steps=4, guidance=3.0),
        Sampling(steps=8, guidance=1.7, eta=0.3, clip_x0=1, clip_high=2.0),
    ],
    ids=["plain", "early with eta", "guided", "all of it"],
)
def test_engine_and_diffusers_pipeline_make_the_same_picture(family, sampling):
    prompts, seeds = ["a fox", "the red sun"], [3, 4]
    ours = draw(family, prompts, seeds, sampling)
    pipe = family.pipeline()
    pipe.scheduler = TDDScheduler.from_config(
        pipe.scheduler.config,
        schedule=sampling.schedule,
        clip_x0_steps=sampling.clip_x0,
        sample_max_value=sampling.clip_high,
    )
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "safety_checker"):
        pipe.safety_checker = None
    height, width = family.default_size
    theirs = pipe(
        prompts, height=height, width=width, num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance, eta=sampling.eta, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images  # fmt: skip
    np.testing.assert_allclose((ours.permute(0, 2, 3, 1).numpy() + 1) / 2, theirs, atol=2e-4)


def test_a_picture_depends_on_its_seed_not_on_its_batch(family):
    prompts, seeds = ["a fox", "a dog", "the moon"], [5, 6, 7]
    sampling = Sampling(steps=4, eta=0.3, guidance=2.0)
    together = [picture.image for picture in generate(family, prompts, seeds, sampling)]
    alone = [picture.image for picture in generate(family, prompts, seeds, sampling, batch=1)]
    for one, other in zip(together, alone, strict=True):
        difference = np.asarray(one).astype(int) - np.asarray(other).astype(int)
        assert abs(difference).max() <= 1  # of 255: kernels round by batch


def test_pictures_come_in_order_with_their_prompt_and_seed(family):
    pictures = list(generate(family, ["a fox"] * 3, [2, 1, 0], Sampling(), batch=2))
    assert [(picture.prompt, picture.seed) for picture in pictures] == [
        ("a fox", 2),
        ("a fox", 1),
        ("a fox", 0),
    ]


def test_network_calls_are_one_a_step_and_two_with_guidance():
    assert Sampling(steps=4).calls == 4
    assert Sampling(steps=4, guidance=2.0).calls == 8


def test_impossible_schedules_are_usage_errors():
    with pytest.raises(UsageError, match="no early schedule of 9 steps"):
        replace(Sampling(), steps=9, schedule="early").times()
    with pytest.raises(UsageError, match="no equal schedule of 300 steps"):
        Sampling(steps=300).times()


def test_sampling_of_inference_takes_every_setting_over():
    inference = Inference(
        family="sdxl", model="m", method="tdd", teacher_grid=50, k_min=2, k_max=6, resolution=64, steps=3,
        guidance=1.5, eta=0.1, schedule="early", clip_x0=1, clip_low=2.0, clip_high=3.0,
    )  # fmt: skip
    assert Sampling.of(inference) == Sampling(3, 1.5, 0.1, "early", 1, 2.0, 3.0, 50, 2, 6)
