"""Drawing with bare networks while they are trained: the core's sampler, without a family around it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from tdd_cli.bundled.emoji.model import LATENT, Cond, denoise, new_scheduler
from tdd_cli.core import guidance as core
from tdd_cli.core.sampler import ImageNoise, sample
from tdd_cli.core.times import equal, solver_grid
from tdd_cli.scheduler import schedule_of


def noise(seeds: list[int]) -> Tensor:
    """One picture's noise depends on its seed only: [N, 4, 16, 16]."""
    return ImageNoise(seeds).draw(LATENT)


def guided(unet: UNet2DConditionModel, cond: Cond, scale: float) -> core.Denoiser:
    """The network led away from the null condition; scale 1 is off."""

    def network(x_t: Tensor, t: Tensor, both: core.Cond) -> Tensor:
        return denoise(unet, x_t, t, Cond(**both)).float()

    null = cond.where(torch.zeros(len(cond.embeds)))
    return core.guided(network, cond._asdict(), null._asdict(), scale)


@torch.no_grad()
def ddim(unet: UNet2DConditionModel, x: Tensor, cond: Cond, *, steps: int, scale: float) -> Tensor:
    """Noise [N, 4, 16, 16] -> scaled latents of pictures, the same shape; deterministic."""
    schedule = schedule_of(new_scheduler().config)
    *_, (x0, _) = sample(schedule, guided(unet, cond, scale), x, equal(solver_grid(), steps))
    return x0


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents -> pictures [N, 3, 64, 64] in [-1, 1]."""
    parts = latents.split(64)
    return torch.cat([vae.decode(part / vae.config["scaling_factor"]).sample for part in parts]).clamp(-1, 1)
