"""Families: what diffusers' own pipelines would compute, for every entry of FAMILIES."""

import logging
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler

from tdd_cli.errors import UsageError
from tdd_cli.families import FAMILIES, load_family
from tdd_cli.families.base import uncropped
from tdd_cli.scheduler import schedule_of
from tiny import PIPELINES, SIZE, tiny, tiny_pipeline

PROMPTS = ["a red fox", "the moon on a tree", ""]


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def family(name, tiny_folders):
    return load_family(name, str(tiny_folders[name]))


def pixels(batch=2, seed=0):
    return torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(batch=2, seed=0):
    return torch.randn(batch, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(seed))


def reference_prompts(pipe, prompts):
    """(text, negative text) and, for SDXL, (pooled, negative pooled), as the pipeline makes them."""
    found = pipe.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return found[:2], found[2:]


def test_every_family_has_a_tiny_pipeline():
    assert list(PIPELINES) == list(FAMILIES)


def test_importing_the_registry_imports_no_torch():
    code = "import sys, tdd_cli.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_family_names_the_known_ones():
    with pytest.raises(UsageError) as caught:
        load_family("sd99", "anything")
    assert "sd15, sdxl" in caught.value.hint


def test_everything_is_frozen_and_in_eval_mode(family):
    for part in family.pipeline().components.values():
        if isinstance(part, torch.nn.Module):
            assert not part.training
            assert not any(p.requires_grad for p in part.parameters())


def test_prompts_equal_the_pipelines(family):
    cond = family.encode_prompts(PROMPTS)
    (text, _), pooled = reference_prompts(family.pipeline(), PROMPTS)
    assert torch.equal(cond["text"], text)
    if pooled:
        assert torch.equal(cond["pooled"], pooled[0])


def test_null_equals_the_pipelines_for_no_negative_prompt(family):
    null = family.null(family.encode_prompts(PROMPTS))
    (_, text), pooled = reference_prompts(family.pipeline(), PROMPTS)
    assert torch.equal(null["text"], text)
    if pooled:
        assert torch.equal(null["pooled"], pooled[1])


def test_null_keeps_batch_dtype_and_sizes(family):
    cond = family.encode_prompts(PROMPTS, torch.arange(18.0).view(3, 6))
    null = family.null(cond)
    assert {k: (v.shape, v.dtype) for k, v in null.items()} == {
        k: (v.shape, v.dtype) for k, v in cond.items()
    }
    if "sizes" in cond:
        assert torch.equal(null["sizes"], torch.arange(18.0).view(3, 6))


def test_sdxl_null_without_forced_zeros_is_the_empty_prompt(tmp_path):
    pipe = tiny("sdxl", tmp_path)
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    pipe.save_pretrained(tmp_path / "sdxl")
    family = load_family("sdxl", str(tmp_path / "sdxl"))
    null = family.null(family.encode_prompts(PROMPTS))
    (_, text), (_, pooled) = reference_prompts(pipe, PROMPTS)
    assert null["text"].abs().max() > 0
    torch.testing.assert_close(null["text"], text)
    torch.testing.assert_close(null["pooled"], pooled)
    assert family.pipeline().config.force_zeros_for_empty_prompt is False


def test_sdxl_default_sizes_equal_the_pipelines(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    pipe = family.pipeline()
    size = (SIZE, SIZE)
    ids = pipe._get_add_time_ids(size, (0, 0), size, torch.float32, pipe.text_encoder_2.config.projection_dim)
    assert torch.equal(family.encode_prompts(PROMPTS)["sizes"], ids.repeat(3, 1))
    assert uncropped(48, 64, 2).tolist() == [[48, 64, 0, 0, 48, 64]] * 2


def test_sizes_reach_the_sdxl_network(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    t = torch.tensor([500])
    a, b = (family.encode_prompts(["a fox"], uncropped(h, SIZE, 1)) for h in (SIZE, 4 * SIZE))
    assert (family.denoise(noise(1), t, a) - family.denoise(noise(1), t, b)).abs().max() > 1e-4


def test_long_prompts_are_cut_counted_and_logged_once(family, caplog):
    long = " ".join(["fox"] * 40)
    with caplog.at_level(logging.WARNING, "tdd_cli"):
        cond = family.encode_prompts([long, "a fox"])
        family.encode_prompts([long, long])
    assert cond["text"].shape[:2] == (2, family.pipeline().tokenizer.model_max_length)
    assert family.truncated == 3
    assert len(caplog.records) == 1
    again = family.encode_prompts([f"{long} moon"])
    torch.testing.assert_close(again["text"], cond["text"][:1])


def test_latents_are_scaled_as_the_pipeline_unscales_them(family):
    pipe = family.pipeline()
    x0 = family.encode_images(pixels())
    assert x0.shape == (2, *family.latent_shape(SIZE, SIZE))
    mean = pipe.vae.encode(pixels()).latent_dist.mode()
    torch.testing.assert_close(x0, mean * pipe.vae.config.scaling_factor)
    reference = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(family.decode(x0), reference.clamp(-1, 1))
    assert family.decode(1e3 * noise()).abs().max() <= 1


def test_posterior_draws_follow_the_generator(family):
    draws = [family.encode_images(pixels(), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    "config",
    [{"shift_factor": 0.3}, {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}],
)
def test_shifted_latents_decode_to_what_was_encoded(family, config):
    plain = family.encode_images(pixels())
    family.vae.register_to_config(**config)
    x0 = family.encode_images(pixels())
    scale = family.vae.config.scaling_factor
    shift = torch.tensor(config.get("shift_factor") or config["latents_mean"]).view(-1, 1, 1)
    std = torch.tensor(config.get("latents_std") or 1.0).view(-1, 1, 1)
    torch.testing.assert_close(x0, (plain / scale - shift) * scale / std)
    decoded = family.decode(x0)
    torch.testing.assert_close(decoded, family.vae.decode(plain / scale).sample.clamp(-1, 1))


def test_denoise_equals_the_plain_network(family):
    cond, t = family.encode_prompts(PROMPTS[:2]), torch.tensor([3, 999])
    added = {"text_embeds": cond["pooled"], "time_ids": cond["sizes"]} if "pooled" in cond else None
    reference = family.net(noise(), t, cond["text"], added_cond_kwargs=added).sample
    torch.testing.assert_close(family.denoise(noise(), t, cond), reference)


def test_one_ddim_step_equals_the_pipeline(family):
    """The whole chain against diffusers: prompts, sizes, network, schedule, decoder."""
    pipe = family.pipeline()
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False
    )
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        "a fox", num_inference_steps=1, guidance_scale=1.0, latents=noise(1), output_type="pt"
    ).images
    t = torch.tensor([999])
    pred = family.denoise(noise(1), t, family.encode_prompts(["a fox"]))
    x0 = family.schedule.jump(noise(1), pred, t, torch.tensor([0]))
    torch.testing.assert_close(family.decode(x0) / 2 + 0.5, picture, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_networks_take_and_give_float32(name, tiny_folders, dtype):
    family = load_family(name, str(tiny_folders[name]), dtype=dtype)
    exact = load_family(name, str(tiny_folders[name]))
    cond, t = family.encode_prompts(PROMPTS[:2]), torch.tensor([3, 999])
    pred = family.denoise(noise(), t, cond)
    assert next(family.net.parameters()).dtype == dtype
    assert pred.dtype == family.encode_images(pixels()).dtype == family.decode(noise()).dtype == torch.float32
    torch.testing.assert_close(
        pred, exact.denoise(noise(), t, exact.encode_prompts(PROMPTS[:2])), atol=0.1, rtol=0.1
    )


def test_sizes_that_do_not_divide_are_refused(family):
    assert family.default_size == (SIZE, SIZE)
    assert family.latent_shape(48, 64) == (4, 24, 32)
    for height, width in [(33, 32), (32, 0), (-32, 32)]:
        with pytest.raises(UsageError, match="cannot make a picture"):
            family.latent_shape(height, width)


@pytest.mark.parametrize(("config", "ours"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_prediction_type_is_read_from_the_scheduler(name, tmp_path, config, ours):
    family = load_family(name, str(tiny_pipeline(name, tmp_path, prediction_type=config)))
    assert family.schedule.prediction == ours
    abar = family.pipeline().scheduler.alphas_cumprod
    torch.testing.assert_close(family.schedule.alpha**2, abar, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
)
def test_schedule_equals_diffusers(extra):
    scheduler = DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **extra}
    )
    torch.testing.assert_close(
        schedule_of(scheduler.config).alpha ** 2, scheduler.alphas_cumprod, atol=2e-6, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
    ],
)
def test_schedules_without_meaning_are_refused(config, said):
    base = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "num_train_timesteps": 10}
    with pytest.raises(ValueError, match=said):
        schedule_of(base | config)
    with pytest.raises(ValueError, match="betas"):
        schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler"})
