"""What --dry-run foresees for the large recipes, from models of their shapes: no weights, and no GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from shapes import FULL, SD15
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tdd_cli.families import load_family
from tdd_cli.recipe import load_recipe
from tdd_cli.training.plan import make_plan

SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CASES = {
    "device_batch 1": ["train.device_batch=1"],
    "device_batch 4": ["train.device_batch=4"],
    "device_batch 16, as it is": [],
    "device_batch 16, data.cache=all": ["data.cache=all"],
    "device_batch 1, no gradient checkpointing": [
        *("train.device_batch=1", "train.gradient_checkpointing=false")
    ],
}


def plans(recipes: Sequence[str] = ("sdxl-4to8", "sd15-4to8")) -> Iterator[str]:
    """The table, a line at a time: GiB that tensors take on a device."""
    yield "| GiB | weights | encoders | gradients | optimizer | activations | in all |"
    yield "|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes:
            model = Path(folder, recipe)
            skeleton(model, xl=recipe.startswith("sdxl"))
            for name, changes in CASES.items():
                read = load_recipe(recipe, [f"model.path={model}", *changes])
                memory = make_plan(read, Path(folder)).memory
                parts = (
                    memory.weights, memory.encoders, memory.gradients, memory.optimizer, memory.activations
                )  # fmt: skip
                sizes = " | ".join(f"{size / 2**30:.1f}" for size in (*parts, sum(parts)))
                yield f"| {recipe}, {name} | {sizes} |"


def skeleton(folder: Path, *, xl: bool) -> None:
    """A model's folder without its weights; the vocabularies are the miniature's."""
    bundled = load_family("sdxl", "bundled:emoji").pipeline()
    shape = FULL if xl else SD15
    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel(**shape.unet), "vae": AutoencoderKL(**shape.vae)}
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        for (name, kind), config in zip(kinds.items(), shape.texts, strict=False):
            parts[name] = kind(CLIPTextConfig(**config))
    tokenizers = {"tokenizer": bundled.tokenizer} | ({"tokenizer_2": bundled.tokenizer_2} if xl else {})
    scheduler = DDIMScheduler(**SCHEDULER)
    if xl:
        pipe = StableDiffusionXLPipeline(**parts, **tokenizers, scheduler=scheduler)
    else:
        without = dict.fromkeys(("safety_checker", "feature_extractor"))
        pipe = StableDiffusionPipeline(
            **parts, **tokenizers, **without, scheduler=scheduler, requires_safety_checker=False
        )
    pipe.save_config(folder)
    for name, part in {**parts, **tokenizers, "scheduler": scheduler}.items():
        if name.startswith("text_encoder"):
            part.config.save_pretrained(folder / name)
        elif name.startswith("tokenizer"):
            part.save_pretrained(folder / name)
        else:
            part.save_config(folder / name)
