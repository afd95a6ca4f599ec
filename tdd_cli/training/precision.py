"""The arithmetic of the networks in training: what a recipe asks for, and what the hardware is quick in."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch


class Precision(NamedTuple):
    """One of PRECISIONS."""

    mixed: Literal["no", "fp16", "bf16"]  # accelerate's name for the autocast of the forward passes
    frozen: torch.dtype  # of the weights that are not trained


PRECISIONS = {
    "fp32": Precision("no", torch.float32),
    "fp16": Precision("fp16", torch.float16),
    "bf16": Precision("bf16", torch.bfloat16),
}


def precision(name: str) -> Precision:
    """The precision of that name; "auto" is bf16 where the hardware computes in it, fp32 elsewhere."""
    if name == "auto":
        name = "bf16" if computes_bf16() else "fp32"
    return PRECISIONS[name]


def computes_bf16() -> bool:
    """Whether the device at hand multiplies bf16 numbers itself: those that do not are far slower in it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
