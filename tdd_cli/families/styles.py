"""Style adapters beside the student: LoRA files of any origin, multiplied into a family's weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers.utils import recurse_remove_peft_layers
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from tdd_cli.families.base import Family
from tdd_cli.families.lora import load_lora
from tdd_cli.families.lora_file import check_lora_path

_TEXT = re.compile(r"(lora_)?(?P<which>text_encoder_2|text_encoder|te1|te2|te)[._]")
_ENCODER = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}


def fuse_style(family: Family, path: Path, scale: float = 1.0) -> None:
    """Multiply a LoRA file into the network's weights, and the text encoders' where it adapts them.

    Raises UsageError if any module of the file has no counterpart.
    """
    check_lora_path(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        found = _TEXT.match(key)
        parts.setdefault(found["which"] if found else "", {})[key] = value
    if set(parts) == {""}:
        fuse(family.net, path, scale=scale, prefix=family.lora_prefix)  # by path: its metadata may hold alpha
        return
    components = family.pipeline().components
    for which, state in parts.items():
        if which:
            encoder = components[_ENCODER.get(which, which)]
            fuse(encoder, _named(state, encoder), scale=scale, prefix=which)
        else:
            fuse(family.net, state, scale=scale, prefix=family.lora_prefix)


def _named(state: dict[str, Tensor], encoder: Any) -> dict[str, Tensor]:
    """The keys as the text encoder has them: some versions of transformers have no text_model inside it."""
    if hasattr(encoder, "text_model"):
        return state
    return {re.sub(r"text_model[._]", "", key, count=1): value for key, value in state.items()}


def fuse(net: Any, adapter: Path | dict[str, Tensor], *, scale: float, prefix: str) -> None:
    """Multiply an adapter into a network's weights and take it off again."""
    device = next(net.parameters()).device
    load_lora(net, adapter, scale=scale, prefix=prefix)
    net.to(device)
    for layer in net.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    recurse_remove_peft_layers(net)
    del net.peft_config
    net._hf_peft_config_loaded = False
