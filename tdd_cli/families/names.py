"""What a UNet's modules are called in SD1.5's and SDXL's own code (LDM and SGM), the "original" layout.

Single files and most interfaces use these names. There a block is one entry of a list, a resnet first and its
attention second; diffusers has a list of resnets and a list of attentions for every resolution.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = {  # the blocks
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_WITHIN = {
    "resnets": {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
}
_INSIDE = re.compile(
    r"(?P<side>down|mid|up)_blocks?(\.(?P<block>\d+))?"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<layer>\d+)\.(?P<rest>.+)"
)


def original_name(name: str, config: Any) -> str:
    """The original name of a module, or a weight, of the UNet2DConditionModel with this configuration.

    Raises ValueError for what such a UNet does not have.
    """
    for ours, theirs in _OUTSIDE.items():
        if f"{name}.".startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    found = _INSIDE.fullmatch(name)
    if not found:
        raise ValueError(f"{name} has no name in the original layout")
    first, dot, rest = found["rest"].partition(".")
    first = _WITHIN.get(found["kind"], {}).get(first, first)
    place = _place(found["side"], int(found["block"] or 0), found["kind"], int(found["layer"]), config)
    return f"{place}.{first}{dot}{rest}"


def _place(side: str, block: int, kind: str, layer: int, config: Any) -> str:
    """Which entry of which list: a resolution takes `per` of them, the last one down for its downsampler."""
    per, second = config.layers_per_block + 1, int(kind == "attentions")
    if side == "mid":
        return f"middle_block.{2 * layer + second}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * per}.0"
    if kind == "upsamplers":  # shares the last entry with a resnet and, where there is one, an attention
        return f"output_blocks.{(block + 1) * per - 1}.{1 + ('CrossAttn' in config.up_block_types[block])}"
    if side == "down":
        return f"input_blocks.{1 + block * per + layer}.{second}"
    return f"output_blocks.{block * per + layer}.{second}"
