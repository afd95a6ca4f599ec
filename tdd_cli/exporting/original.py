"""A whole pipeline under the names of SD1.5's and SDXL's own code: what single files hold.

diffusers reads this layout and does not write it. The UNet's names are in families/names.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tdd_cli.errors import UsageError
from tdd_cli.families.base import Family
from tdd_cli.families.names import original_name

State = dict[str, Tensor]

_VAE = (  # applied in this order; the decoder counts its resolutions from the other end
    (r"conv_norm_out", r"norm_out"),
    (r"conv_shortcut", r"nin_shortcut"),
    (r"mid_block\.resnets\.0", r"mid.block_1"),
    (r"mid_block\.resnets\.1", r"mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", r"mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", r"mid.attn_1.proj_out"),
    (r"_blocks\.(\d+)\.resnets", r".\1.block"),
    (r"_blocks\.(\d+)\.(down|up)samplers\.0", r".\1.\2sample"),
)
_OPEN_CLIP = (
    (r"^encoder\.layers", r"transformer.resblocks"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"mlp\.fc1", r"mlp.c_fc"),
    (r"mlp\.fc2", r"mlp.c_proj"),
    (r"self_attn\.", r"attn."),
    (r"^final_layer_norm", r"ln_final"),
    (r"^embeddings\.token_embedding", r"token_embedding"),
    (r"^embeddings\.position_embedding\.weight", r"positional_embedding"),
)


def original_state(family: Family, dtype: torch.dtype) -> State:
    """All tensors of the family's pipeline in the original layout; UsageError for a family that has none."""
    if family.name not in ENCODERS:
        raise UsageError(
            f"{family.name} models have no single-file layout here", hint="Use --format merged: a folder."
        )
    pipe = family.pipeline()
    state = _under("model.diffusion_model.", unet(family.net))
    state |= _under("first_stage_model.", vae(pipe.vae))
    for part, (prefix, convert) in ENCODERS[family.name].items():
        state |= _under(prefix, convert(getattr(pipe, part)))
    return {key: value.to("cpu", dtype).contiguous() for key, value in state.items()}


def unet(net: Any) -> State:
    """The UNet's tensors in the original layout."""
    return {original_name(key, net.config): value for key, value in net.state_dict().items()}


def vae(net: Any) -> State:
    """The VAE's tensors in the original layout, where its attention is made of 1 x 1 convolutions."""
    last = len(net.config.block_out_channels) - 1
    return {_vae_name(key, last): _as_conv(key, value) for key, value in net.state_dict().items()}


def clip(encoder: Any) -> State:
    """OpenAI's CLIP keeps the names that transformers gave it."""
    return {f"text_model.{key.removeprefix('text_model.')}": v for key, v in encoder.state_dict().items()}


def open_clip(encoder: Any) -> State:
    """OpenCLIP's names; query, key and value are one matrix there, and the projection is transposed."""
    state: State = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for key, value in encoder.state_dict().items():
        name = _renamed(key.removeprefix("text_model."), _OPEN_CLIP)
        if name == "text_projection.weight":
            state["text_projection"] = value.T
        elif found := re.fullmatch(r"(.+\.attn\.)([qkv])_proj\.(weight|bias)", name):
            packed.setdefault(f"{found[1]}in_proj_{found[3]}", {})[found[2]] = value
        else:
            state[name] = value
    return state | {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in packed.items()}


ENCODERS: dict[str, dict[str, tuple[str, Callable[[Any], State]]]] = {
    "sd15": {"text_encoder": ("cond_stage_model.transformer.", clip)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", clip),
        "text_encoder_2": ("conditioner.embedders.1.model.", open_clip),
    },
}
"""Family -> text encoder -> (where it is in a single file, how it is written there)."""


def _vae_name(key: str, last: int) -> str:
    key = _renamed(key, _VAE)
    return re.sub(r"(?<=decoder\.up\.)\d+", lambda found: str(last - int(found[0])), key)


def _as_conv(key: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}
