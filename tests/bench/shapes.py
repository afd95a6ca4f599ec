"""SDXL's networks by their shapes, and the same in small: with random weights, for speed and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tdd_cli.core.schedule import make_betas, vp
from tdd_cli.families.base import Cond
from tdd_cli.families.sdxl import SDXL

TOKENS = 77


@dataclass(frozen=True)
class Shape:
    """What the networks are made with."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    pixels: int  # a side of the picture


def _text(width: int, layers: int, heads: int, act: str, projection: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": act,
        "projection_dim": projection,
    }


UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
FULL = Shape(
    UNET
    | {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768 + 1280,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),  # in fact the numbers of heads
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    },
    {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "scaling_factor": 0.13025,
    },
    (_text(768, 12, 12, "quick_gelu", 768), _text(1280, 32, 20, "gelu", 1280)),
    1024,
)
SD15 = Shape(
    {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # in fact the number of heads
    },
    FULL.vae | {"scaling_factor": 0.18215},
    FULL.texts[:1],
    512,
)
SMALL = Shape(
    UNET
    | {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32 + 64,
        "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (1, 1, 2),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 64,
    },
    {
        "block_out_channels": (32,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
    },
    (_text(32, 1, 2, "quick_gelu", 32), _text(64, 1, 4, "gelu", 64)),
    64,
)


class Untrained:
    """SDXL's network with random weights; of a family, what a training step needs."""

    lora_targets = SDXL.lora_targets
    denoise, _inputs = SDXL.denoise, SDXL._inputs

    def __init__(self, shape: Shape, *, dtype: torch.dtype, device: str) -> None:
        self.net: nn.Module = made(UNet2DConditionModel, dtype, device, **shape.unet).requires_grad_(False)
        self.schedule = vp(make_betas("scaled_linear", 0.00085, 0.012)).to(device)
        self.latent = (4, shape.pixels // 8, shape.pixels // 8)

    def null(self, cond: Cond) -> Cond:
        """Zeros, as SDXL has it."""
        return {name: value if name == "sizes" else torch.zeros_like(value) for name, value in cond.items()}


def made(kind: Any, dtype: torch.dtype, device: str, **config: Any) -> Any:
    """A network of random weights, made on the device."""
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return kind(**config)
        finally:
            torch.set_default_dtype(before)


def conditions(shape: Shape, batch: int, device: str) -> Cond:
    """A random condition of B prompts."""
    text, pooled = shape.unet["cross_attention_dim"], shape.texts[1]["projection_dim"]
    return {
        "text": torch.randn(batch, TOKENS, text, device=device),
        "pooled": torch.randn(batch, pooled, device=device),
        "sizes": torch.full((batch, 6), float(shape.pixels), device=device),
    }


class Encoders:
    """The VAE and both text encoders, as the published way has them in memory and in every step."""

    def __init__(self, shape: Shape, *, dtype: torch.dtype, device: str) -> None:
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        self.texts = [
            made(kind, dtype, device, config=CLIPTextConfig(**config)).requires_grad_(False)
            for kind, config in zip(kinds, shape.texts, strict=True)
        ]
        self.vae = made(AutoencoderKL, dtype, device, **shape.vae).requires_grad_(False)
        self.pixels, self.device = shape.pixels, device

    @torch.no_grad()
    def encode(self, batch: int) -> tuple[Tensor, Cond]:
        """x0 and the condition of B random pictures and prompts; the VAE by eight pictures at a time."""
        ids = torch.randint(1000, (batch, TOKENS), device=self.device)
        outs = [text(ids, output_hidden_states=True) for text in self.texts]
        pixels = torch.rand(batch, 3, self.pixels, self.pixels, device=self.device, dtype=self.vae.dtype)
        x0 = torch.cat([self.vae.encode(part).latent_dist.sample() for part in pixels.split(8)])
        text = torch.cat([out.hidden_states[-2] for out in outs], dim=-1)
        sizes = torch.full((batch, 6), float(self.pixels), device=self.device)
        cond = {"text": text.float(), "pooled": outs[1].text_embeds.float(), "sizes": sizes}
        return x0.float() * self.vae.config.scaling_factor, cond
