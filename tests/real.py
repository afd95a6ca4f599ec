"""SD1.5's and SDXL's UNets at their real size, without weights: what files for them must hold."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel

UNETS: dict[str, dict[str, Any]] = {  # what differs from diffusers' defaults, which are SD1.5's
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}
WIDTHS = {"sd15": (1, 2, 4, 4), "sdxl": (1, 2, 4)}  # of each resolution, over the first one's
DEPTHS = {"sd15": (1, 1, 1, 0), "sdxl": (0, 2, 10)}  # transformer blocks of each resolution
MIDDLE = {"sd15": 1, "sdxl": 10}


@cache
def real_unet(family: str) -> UNet2DConditionModel:
    """On the meta device; not to be changed."""
    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[family])


def original_modules(family: str) -> set[str]:
    """Every linear layer and convolution inside the blocks of the original network, as its code builds it.

    Written after openaimodel.py of LDM and SGM, not after diffusers: two resnets down and three up for each
    resolution, a transformer behind each where the resolution has one.
    """
    depths = DEPTHS[family]
    return {*_down(depths, WIDTHS[family]), *_middle(MIDDLE[family]), *_up(depths)}


def _down(depths: tuple[int, ...], widths: tuple[int, ...]) -> Iterator[str]:
    number = 1
    for level, depth in enumerate(depths):
        for i in range(2):
            wider = level > 0 and i == 0 and widths[level] > widths[level - 1]
            yield from _resnet(f"input_blocks.{number}.0", skip=wider)
            yield from _transformer(f"input_blocks.{number}.1", depth)
            number += 1
        if level < len(depths) - 1:
            yield f"input_blocks.{number}.0.op"
            number += 1


def _middle(depth: int) -> Iterator[str]:
    yield from _resnet("middle_block.0", skip=False)
    yield from _transformer("middle_block.1", depth)
    yield from _resnet("middle_block.2", skip=False)


def _up(depths: tuple[int, ...]) -> Iterator[str]:
    number = 0
    for level, depth in reversed([*enumerate(depths)]):
        for i in range(3):
            yield from _resnet(f"output_blocks.{number}.0", skip=True)
            yield from _transformer(f"output_blocks.{number}.1", depth)
            if level > 0 and i == 2:
                yield f"output_blocks.{number}.{2 if depth else 1}.conv"
            number += 1


def _resnet(name: str, *, skip: bool) -> Iterator[str]:
    yield from (f"{name}.{part}" for part in ("in_layers.2", "emb_layers.1", "out_layers.3"))
    if skip:
        yield f"{name}.skip_connection"


def _transformer(name: str, depth: int) -> Iterator[str]:
    if depth:
        yield from (f"{name}.proj_in", f"{name}.proj_out")
    for block in range(depth):
        inside = f"{name}.transformer_blocks.{block}"
        for attention in ("attn1", "attn2"):
            yield from (f"{inside}.{attention}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))
        yield from (f"{inside}.ff.net.0.proj", f"{inside}.ff.net.2")
