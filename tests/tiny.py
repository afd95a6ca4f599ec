"""Random miniature pipelines, one per family: the real architectures, offline, seeded, in under a second.

folder = tiny_pipeline("sdxl", tmp_path)
family = load_family("sdxl", str(folder))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE = 32  # pixels; the VAE halves it once, so latents are 4 x 16 x 16
WORDS = ("a", "an", "the", "red", "blue", "fox", "dog", "cat", "sun", "moon", "tree", "on", "in", "of")
MAX_TOKENS = 16
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_pipeline(family: str, folder: Path, *, prediction_type: str = "epsilon", **scheduler: Any) -> Path:
    """Write a random pipeline of `family` into folder/family and return that folder."""
    path = folder / family
    tiny(family, path, prediction_type=prediction_type, **scheduler).save_pretrained(
        path, safe_serialization=True
    )
    return path


def tiny(family: str, scratch: Path, *, prediction_type: str = "epsilon", **scheduler: Any) -> Any:
    """The pipeline itself; `scratch` is where its tokenizer's files are written."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = PIPELINES[family](scratch, prediction_type, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd15(scratch: Path, prediction_type: str, scheduler: dict[str, Any]) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=CLIPTextModel(_text(32, "quick_gelu")).eval(),
        tokenizer=_tokenizer(scratch / "tokenizer", "<|endoftext|>"),
        unet=_unet(cross_attention_dim=32, attention_head_dim=8),
        scheduler=DDIMScheduler(
            **{
                **BETAS,
                "steps_offset": 1,
                "clip_sample": False,
                "prediction_type": prediction_type,
                **scheduler,
            }
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sdxl(scratch: Path, prediction_type: str, scheduler: dict[str, Any]) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=CLIPTextModel(_text(32, "quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text(24, "gelu", projection_dim=20)).eval(),
        tokenizer=_tokenizer(scratch / "tokenizer", "<|endoftext|>"),
        tokenizer_2=_tokenizer(scratch / "tokenizer_2", "!"),
        unet=_unet(
            cross_attention_dim=32 + 24,
            attention_head_dim=(2, 4),  # in SDXL too this is the number of heads
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(
            **{
                **BETAS,
                "steps_offset": 1,
                "timestep_spacing": "leading",
                "prediction_type": prediction_type,
                **scheduler,
            }
        ),
        add_watermarker=False,
    )


PIPELINES = {"sd15": tiny_sd15, "sdxl": tiny_sdxl}


def _unet(**differences: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **differences,
    ).eval()


def _vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        sample_size=SIZE,
    ).eval()


def _text(width: int, act: str, projection_dim: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=act,
        projection_dim=projection_dim,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _vocabulary() -> dict[str, int]:
    """Both markers, every letter inside and at the end of a word, then whole words."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.!'"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters), *_merged()]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _merges() -> list[tuple[str, str]]:
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    return list(dict.fromkeys(merges))


def _merged() -> list[str]:
    return [a + b for a, b in _merges()]


def _tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()), "utf-8")
    merges = ["#version: 0.2", *(f"{a} {b}" for a, b in _merges())]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
    config = {"model_max_length": MAX_TOKENS, "pad_token": pad_token, "tokenizer_class": "CLIPTokenizer"}
    config |= dict.fromkeys(("eos_token", "unk_token"), "<|endoftext|>") | {"bos_token": "<|startoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return CLIPTokenizer.from_pretrained(folder)
