"""The engine: the picture of a diffusers pipeline with TDDScheduler, whatever the batch."""

import inspect
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

import tdd_cli.generate
from reads import NoReads
from tdd_cli.errors import UsageError
from tdd_cli.families import load_family
from tdd_cli.families.lora import adapter_off, add_lora, lora_parameters
from tdd_cli.generate import Edit, Sampling, draw, generate
from tdd_cli.scheduler import TDDScheduler

PROMPTS, SEEDS = ["a fox", "the red sun"], [3, 4]


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


def pipe_of(family, kind, sampling, **parts):
    """The diffusers pipeline of a kind around a family's modules, with TDDScheduler."""
    prefix = "StableDiffusionXL" if family.name == "sdxl" else "StableDiffusion"
    source = family.pipeline()
    made = getattr(diffusers, f"{prefix}{kind}Pipeline")(**source.components, **source_flags(family), **parts)
    made.scheduler = TDDScheduler.from_config(source.scheduler.config, clip_x0_steps=sampling.clip_x0)
    made.set_progress_bar_config(disable=True)
    return made


def source_flags(family):
    return {"add_watermarker": False} if family.name == "sdxl" else {"requires_safety_checker": False}


def pictured(pipe, sampling, prompts, seeds, **inputs):
    """The pipeline's pictures as pixels [B, 3, H, W] in [-1, 1]."""
    images = pipe(
        prompts, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, eta=sampling.eta,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], output_type="pt", **inputs,
    ).images  # fmt: skip
    return images * 2 - 1


@pytest.fixture(scope="module")
def given(family):
    """Pixels of a picture to start from."""
    return torch.rand(1, 3, *family.default_size, generator=torch.Generator().manual_seed(8)) * 2 - 1


@pytest.mark.parametrize("strength", [i / 8 for i in range(1, 9)])
def test_image_to_image_is_that_of_diffusers_from_every_strength(family, given, strength):
    sampling = Sampling(steps=8, eta=0.2, strength=strength, guidance=1.5, clip_x0=2)
    ours = draw(family, PROMPTS, SEEDS, sampling, edit=Edit(given))
    pipe = pipe_of(family, "Img2Img", sampling)
    latents = family.encode_images(given).repeat(2, 1, 1, 1)
    theirs = pictured(pipe, sampling, PROMPTS, SEEDS, image=latents, strength=strength)
    torch.testing.assert_close(ours, theirs, atol=4e-4, rtol=0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_is_that_of_diffusers_and_keeps_the_rest_to_the_pixel(family, given, strength):
    sampling = Sampling(steps=4, strength=strength, guidance=2.0)
    mask = torch.zeros(1, 1, *family.default_size)
    mask[..., 8:24] = 1
    ours = draw(family, PROMPTS, SEEDS, sampling, edit=Edit(given, mask))
    pipe = pipe_of(family, "Inpaint", sampling)
    latents = family.encode_images(given).repeat(2, 1, 1, 1)
    only_sd15 = {"masked_image_latents": latents} if family.name == "sd15" else {}
    height, width = family.default_size
    theirs = pictured(
        pipe,
        sampling,
        PROMPTS,
        SEEDS,
        image=latents,
        mask_image=mask,
        strength=strength,
        height=height,
        width=width,
        **only_sd15,
    )
    redrawn = mask.expand_as(ours) > 0
    torch.testing.assert_close(ours[redrawn], theirs[redrawn], atol=4e-4, rtol=0)
    assert torch.equal(ours[~redrawn], given.expand_as(ours)[~redrawn])


def test_a_negative_prompt_is_the_pipelines(family):
    sampling = Sampling(steps=4, guidance=3.0, negative="the red sun")
    ours = draw(family, PROMPTS, SEEDS, sampling)
    pipe = pipe_of(family, "", sampling)
    height, width = family.default_size
    theirs = pictured(
        pipe, sampling, PROMPTS, SEEDS, negative_prompt=["the red sun"] * 2, height=height, width=width
    )
    torch.testing.assert_close(ours, theirs, atol=4e-4, rtol=0)


def test_guidance_for_some_steps_is_paid_for_those_only(family):
    batches = []

    def counting(x, t, cond):
        batches.append(len(x))
        return family.denoise(x, t, cond)

    draw(family, PROMPTS, SEEDS, Sampling(steps=4, guidance=(2.0, 2.0, 1.0, 1.0)), network=counting)
    assert batches == [4, 4, 2, 2]


def test_the_loop_reads_nothing_back_from_the_device(family, given):
    mask = torch.ones(1, 1, *family.default_size)
    seen = []

    class Watched:
        """The family, its prompts and pictures read before the loop and decoded after it."""

        def __getattr__(self, name):
            return getattr(family, name)

        def denoise(self, x, t, cond):
            with NoReads():
                seen.append(len(x))
                return family.denoise(x, t, cond)

    sampling = Sampling(steps=4, guidance=(2.0, 1.0, 1.0, 2.0), eta=0.3, clip_x0=1)
    draw(Watched(), PROMPTS, SEEDS, sampling, edit=Edit(given, mask))
    assert seen == [4, 2, 2, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]), device="cuda", dtype=torch.float16)
    steps = []

    def each_step(_):
        steps.append(torch.cuda.get_sync_debug_mode())
        torch.cuda.set_sync_debug_mode("error" if len(steps) < 4 else "default")

    draw(family, PROMPTS, SEEDS, Sampling(steps=4, guidance=2.0, eta=0.2, clip_x0=1), each_step=each_step)
    assert len(steps) == 4


def test_post_tuning_uses_the_teachers_null_and_at_the_trained_scale_is_the_student(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, family.lora_targets, rank=2)
    with torch.no_grad():
        for parameter in lora_parameters(family.net):
            parameter.add_(0.05)
    post = Sampling(guidance_mode="post", teacher_guidance=4.5, guidance=4.5)
    assert torch.equal(draw(family, PROMPTS, SEEDS, post), draw(family, PROMPTS, SEEDS, Sampling()))
    with adapter_off(family.net):
        teacher = draw(family, ["", ""], SEEDS, Sampling())
    off = draw(family, PROMPTS, SEEDS, replace(post, guidance=0.0))
    if family.pipe.config.force_zeros_for_empty_prompt:  # then the teacher's null is not its ""
        assert not torch.allclose(off, draw(family, PROMPTS, SEEDS, post), atol=1e-3)
    else:
        torch.testing.assert_close(off, teacher, atol=1e-4, rtol=0)


def test_post_tuning_needs_an_adapter_to_switch_off(family):
    with pytest.raises(UsageError, match="teacher is not at hand"):
        draw(family, PROMPTS, SEEDS, Sampling(guidance_mode="post", teacher_guidance=4.5))


def test_where_memory_runs_out_the_batch_is_halved_and_the_pictures_are_the_same(family):
    sizes = []

    def small(x, t, cond):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("more than two")
        return family.denoise(x, t, cond)

    found = list(generate(family, ["a fox"] * 5, 0, Sampling(steps=1), batch="auto", network=small))
    assert sizes == [5, 2, 2, 1]
    assert [picture.seed for picture in found] == [0, 1, 2, 3, 4]
    with pytest.raises(torch.OutOfMemoryError):
        list(generate(family, ["a fox"] * 5, 0, Sampling(steps=1), batch=5, network=small))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_network_is_sampled_in_float32(tiny_folders, dtype):
    family = load_family("sdxl", str(tiny_folders["sdxl"]), dtype=dtype)
    whole = load_family("sdxl", str(tiny_folders["sdxl"]))
    sampling = Sampling(steps=4, guidance=1.5, eta=0.2)
    half, full = (draw(one, PROMPTS, SEEDS, sampling) for one in (family, whole))
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.05


def test_as_a_library_a_name_and_settings_are_enough(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    (picture,) = tdd_cli.generate(tiny_folders["sdxl"], "a fox", seeds=7, steps=2, eta=0.1)
    (same,) = generate(family, ["a fox"], [7], Sampling(steps=2, eta=0.1))
    assert picture.image.tobytes() == same.image.tobytes()
    assert "seeds" in inspect.signature(tdd_cli.generate).parameters


def test_the_library_refuses_seeds_that_do_not_match():
    with pytest.raises(UsageError, match="2 prompts need as many seeds, got 1"):
        list(generate(None, ["a fox", "a dog"], [1], Sampling()))
