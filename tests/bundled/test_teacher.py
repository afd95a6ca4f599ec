import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from tdd_cli.bundled.emoji import GUIDANCE, TEACHER, dataset, evaluate
from tdd_cli.bundled.emoji.compare import draw_all
from tdd_cli.bundled.emoji.model import LENGTH, Text
from tdd_cli.bundled.emoji.train.vae import psnr
from tdd_cli.families import load_family
from tdd_cli.generate import Sampling


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionXLPipeline.from_pretrained(TEACHER)


@pytest.fixture(scope="module")
def text(pipeline):
    return Text(pipeline.tokenizer, pipeline.text_encoder, pipeline.text_encoder_2)


def test_the_folder_is_small_and_safetensors_only():
    files = [path for path in TEACHER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25 * 2**20
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_it_loads_as_a_plain_pipeline_in_single_precision(pipeline):
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
    assert pipeline.config.force_zeros_for_empty_prompt
    assert pipeline.default_sample_size * pipeline.vae_scale_factor == 64


def test_prompts_are_encoded_as_the_pipeline_does(pipeline, text):
    prompts = ["a fox", "a red apple, flat style"]
    embeds, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    cond = text.encode(text.tokens(prompts))
    assert embeds.shape == (2, LENGTH, 192)
    torch.testing.assert_close(cond.embeds, embeds)
    torch.testing.assert_close(cond.pooled, pooled)


def test_the_bare_sampler_draws_what_the_family_draws(pipeline, text):
    pairs = [("fox", 3), ("tent", 4)]
    ours = evaluate.draw(pipeline.unet, text, pipeline.vae, pairs, steps=4, guidance=3.0)
    family = load_family("sdxl", "bundled:emoji")
    theirs = draw_all(family, pairs, Sampling(steps=4, guidance=3.0))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_a_picture_depends_on_its_seed_not_on_its_batch(pipeline, text):
    parts = (pipeline.unet, text, pipeline.vae)
    both = evaluate.draw(*parts, [("fox", 3), ("tent", 4)], steps=3, guidance=2.0)
    alone = evaluate.draw(*parts, [("tent", 4)], steps=3, guidance=2.0)
    torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=0)


def test_the_autoencoder_rebuilds_the_data_set_to_28_decibels_with_unit_latents(pipeline, emoji):
    some = emoji.images[::25]
    assert psnr(pipeline.vae, some) >= 28
    with torch.no_grad():
        latents = pipeline.vae.encode(some).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert 0.9 < latents.std() < 1.1


def test_two_seeds_of_one_prompt_differ_half_as_much_as_two_styles_of_the_thing_or_more(emoji):
    names = [name for name, _ in dataset.evaluation_split()[::16]]
    family = load_family("sdxl", "bundled:emoji")
    drawn = [
        draw_all(family, [(name, seed) for name in names], Sampling(steps=8, guidance=GUIDANCE))
        for seed in (0, 1)
    ]
    pictures = [
        [emoji.images[i] for i, row in enumerate(emoji.rows) if row.name == name][:2] for name in names
    ]
    real = [torch.stack(style) for style in zip(*pictures, strict=True)]
    between = (drawn[0] - drawn[1]).square().mean((1, 2, 3)).sqrt()
    assert (between / (real[0] - real[1]).square().mean((1, 2, 3)).sqrt()).min() > 0.5
