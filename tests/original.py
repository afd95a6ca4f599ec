"""Write a UNet pipeline as one file in the original (LDM, SGM) layout, which diffusers only reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".mlp.c_fc.",
    ".fc2.": ".mlp.c_proj.",
    ".mlp.mlp.": ".mlp.",
    ".self_attn.": ".attn.",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def save_original(pipe: Any, path: Path) -> None:
    """Write an sd15 or sdxl pipeline of any size to `path`, a .safetensors file."""
    state = {f"model.diffusion_model.{key}": value for key, value in _unet(pipe.unet).items()}
    state |= {f"first_stage_model.{key}": value for key, value in _vae(pipe.vae).items()}
    if hasattr(pipe, "text_encoder_2"):
        state |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in _clip(pipe.text_encoder).items()}
        state |= {f"conditioner.embedders.1.model.{k}": v for k, v in _open_clip(pipe.text_encoder_2).items()}
    else:
        state |= {f"cond_stage_model.transformer.{k}": v for k, v in _clip(pipe.text_encoder).items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def _unet(unet: Any) -> State:
    state = {_unet_key(key, unet.config.layers_per_block): value for key, value in unet.state_dict().items()}
    return {_upsampler_key(key, state): value for key, value in state.items()}


def _upsampler_key(key: str, state: State) -> str:
    """An upsampler comes after the attention where there is one, in its place where there is none."""
    block, is_upsampler, rest = key.partition(".UP.")
    if not is_upsampler:
        return key
    return f"{block}.{2 if any(other.startswith(f'{block}.1.') for other in state) else 1}.{rest}"


def _unet_key(key: str, layers: int) -> str:
    for ours, theirs in _UNET.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    side, block, kind, layer, rest = _unet_parts(key)
    if kind == "resnets":
        name, _, end = rest.partition(".")
        rest = f"{_RESNET[name]}.{end}"
    place = 0 if kind == "resnets" else 1
    if side == "mid":
        return f"middle_block.{2 * layer + place}.{rest}"
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + block * (layers + 1) + layer}.{place}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.UP.{rest}"
    return f"output_blocks.{block * (layers + 1) + layer}.{place}.{rest}"


def _unet_parts(key: str) -> tuple[str, int, str, int, str]:
    found = re.fullmatch(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", key
    )
    assert found, key
    side, block, kind, layer, rest = found.groups()
    return side, int(block or 0), kind, int(layer), rest


def _vae(vae: Any) -> State:
    blocks = len(vae.config.block_out_channels)
    return {_vae_key(key, blocks): _as_conv(key, value) for key, value in vae.state_dict().items()}


def _vae_key(key: str, blocks: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if ".mid_block.attentions.0." in key:
        for ours, theirs in _VAE_ATTENTION.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)


def _as_conv(key: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value


def _clip(encoder: Any) -> State:
    return {f"text_model.{key.removeprefix('text_model.')}": v for key, v in encoder.state_dict().items()}


def _open_clip(encoder: Any) -> State:
    state, packed = {}, {}
    for key, value in encoder.state_dict().items():
        key = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            state["text_projection"] = value.T
            continue
        for ours, theirs in _OPEN_CLIP.items():
            key = key.replace(ours, theirs)
        if found := re.fullmatch(r"(.+\.attn\.)([qkv])_proj\.(weight|bias)", key):
            packed[found[1], found[3], found[2]] = value
        else:
            state[key] = value
    for attention, half in {(a, h) for a, h, _ in packed}:
        state[f"{attention}in_proj_{half}"] = torch.cat([packed[attention, half, part] for part in "qkv"])
    return state
