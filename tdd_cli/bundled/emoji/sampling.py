"""Drawing with the teacher: deterministic DDIM, batched, every picture from its own seed."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from tdd_cli.bundled.emoji.model import LATENT, Cond, denoise


def noise(seeds: list[int]) -> Tensor:
    """One picture's noise depends on its seed only: [N, 4, 16, 16]."""
    return torch.stack(
        [torch.randn(LATENT, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    )


def guided(unet: UNet2DConditionModel, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
    """The network's output led away from that of the null condition; guidance 1 is off."""
    if guidance == 1:
        return denoise(unet, x_t, t, cond)
    keep = torch.arange(2 * len(x_t)) < len(x_t)
    twice = Cond(cond.embeds.repeat(2, 1, 1), cond.pooled.repeat(2, 1)).where(keep)
    with_text, without = denoise(unet, x_t.repeat(2, 1, 1, 1), t, twice).chunk(2)
    return without + guidance * (with_text - without)


@torch.no_grad()
def ddim(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    x: Tensor,
    cond: Cond,
    *,
    steps: int,
    guidance: float,
) -> Tensor:
    """Noise [N, 4, 16, 16] -> scaled latents of pictures, the same shape."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        v = guided(unet, x, t, cond, guidance)
        x = scheduler.step(v.float(), t, x).prev_sample
    return x


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents -> pictures [N, 3, 64, 64] in [-1, 1]."""
    return torch.cat(
        [vae.decode(part / vae.config["scaling_factor"]).sample for part in latents.split(64)]
    ).clamp(-1, 1)
