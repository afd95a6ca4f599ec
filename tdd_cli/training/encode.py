"""Pictures to latents during training, each picture encoded once where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tdd_cli.data.batches import Batch
from tdd_cli.families.base import Family


def every_time(family: Family) -> Callable[[Batch], Tensor]:
    """x0 [B, C, h, w] of a batch, encoded anew: needs no memory, costs one pass of the VAE a step."""
    return lambda batch: family.encode_images(batch.pixels)


def once(family: Family) -> Callable[[Batch], Tensor]:
    """x0 of a batch; a picture (or its mirror image) seen before is not encoded again.

    Kept in memory on the CPU: 4 kB for a 64-pixel picture, 256 kB at 1024 pixels.
    """
    kept: dict[tuple[int, bool], Tensor] = {}

    def encode(batch: Batch) -> Tensor:
        new = [i for i, key in enumerate(batch.keys) if key not in kept]
        if new:
            for i, x0 in zip(new, family.encode_images(batch.pixels[new]).cpu(), strict=True):
                kept[batch.keys[i]] = x0.clone()
        return torch.stack([kept[key] for key in batch.keys]).to(family.schedule.alpha.device)

    return encode


CACHES: dict[str, Callable[[Family], Callable[[Batch], Tensor]]] = {"none": every_time, "memory": once}
