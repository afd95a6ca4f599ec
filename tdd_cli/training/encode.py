"""From a batch to what the networks take, (x0, condition): encoded now, or once, or before training began."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tdd_cli.core.device import moved
from tdd_cli.data.batches import Batch, Key
from tdd_cli.families.base import Cond, Family
from tdd_cli.training.prepare import COND, check_latents

Encode = Callable[[Batch], tuple[Tensor, Cond]]
"""(x0 [B, C, h, w], the condition of B samples) of a batch, on the network's device."""


def from_pixels(family: Family) -> Encode:
    """Both encoders, anew each time: needs no memory, costs one pass of each a step."""
    return lambda batch: (family.encode_images(batch.tensors["pixels"]), _cond(family, batch))


def once(family: Family) -> Encode:
    """A picture (or its mirror image) seen before is not encoded again.

    Each is encoded alone: its last bits depend on how many are encoded together, and a run that was resumed
    meets other pictures for the first time. Kept in memory on the CPU: 4 kB for a 64-pixel picture, 256 kB at
    1024 pixels.
    """
    kept: dict[Key, Tensor] = {}

    def encode(batch: Batch) -> tuple[Tensor, Cond]:
        for key, pixels in zip(batch.keys, batch.tensors["pixels"], strict=True):
            if key not in kept:
                kept[key] = family.encode_images(pixels[None])[0].cpu()
        x0 = torch.stack([kept[key] for key in batch.keys])
        return moved(x0, family.schedule.alpha.device), _cond(family, batch)

    return encode


def from_latents(family: Family) -> Encode:
    """x0 out of the cache; captions through the text encoders."""
    device = family.schedule.alpha.device
    return lambda batch: (moved(batch.tensors["x0"], device), _cond(family, batch))


def from_cache(family: Family) -> Encode:
    """x0 and what the text encoders made of the caption out of the cache: no encoder is needed."""
    device = family.schedule.alpha.device
    sized = "sizes" in family.encode_prompts([""])

    def encode(batch: Batch) -> tuple[Tensor, Cond]:
        tensors = {name: moved(value, device) for name, value in batch.tensors.items()}
        x0 = tensors.pop("x0")
        cond = {name.removeprefix(COND): value for name, value in tensors.items()}
        return x0, {**cond, **({"sizes": moved(batch.sizes, device)} if sized else {})}

    return encode


def checked(encode: Encode) -> Encode:
    """The same; the first batch is looked at, so that a VAE that overflows ends the run before it begins."""
    unseen = True

    def first_checked(batch: Batch) -> tuple[Tensor, Cond]:
        nonlocal unseen
        x0, cond = encode(batch)
        if unseen:
            check_latents(x0)
            unseen = False
        return x0, cond

    return first_checked


def _cond(family: Family, batch: Batch) -> Cond:
    return family.encode_prompts(batch.prompts, batch.sizes)


ENCODERS: dict[str, Callable[[Family], Encode]] = {
    "none": from_pixels,
    "memory": once,
    "latents": from_latents,
    "all": from_cache,
}
"""By the recipe's data.cache."""
