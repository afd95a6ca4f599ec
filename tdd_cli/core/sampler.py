"""The few-step sampler: estimate x0, jump a little below the next time, add fresh noise back up to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from tdd_cli.core.guidance import Denoiser
from tdd_cli.core.schedule import NoiseSchedule

Clip = Callable[[Tensor], Tensor]
"""x0 [B, ...] -> x0 [B, ...]."""


def sample(
    schedule: NoiseSchedule,
    denoise: Denoiser,
    x_t: Tensor,
    times: Tensor,
    *,
    eta: float = 0.0,
    noise: Sequence[Tensor] | Tensor = (),
    clip: Clip | None = None,
    clip_steps: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (x_next, x0 estimate) after each of the K steps; after the last both are the picture's x0.

    x_t is [B, ...] at times[0], and times [K] descend, on the schedule's device. `eta` in 0..1 is the share
    by which a step undershoots the next time; eta > 0 needs `noise`, K - 1 tensors [B, ...]. `clip` acts on
    the x0 of the first `clip_steps` steps. Nothing is read back from the device.

    eta = 0 is DDIM (PCM, TDD); eta is CTM's gamma; eta = 1 re-noises from 0, as LCM does.
    """
    landings = undershoot(times, eta)
    for i in range(len(times)):
        pred = denoise(x_t, times[i].expand(len(x_t)))
        x0, eps = schedule.split(x_t, pred, times[i])
        if clip is not None and i < clip_steps:
            x0 = clip(x0)
        if i + 1 == len(times):
            x_t = x0
        else:
            fresh = noise[i] if eta > 0 else None
            x_t = land(schedule, x0, eps, landings[i + 1], times[i + 1], fresh)
        yield x_t, x0


def land(
    schedule: NoiseSchedule, x0: Tensor, eps: Tensor, s: Tensor, t_next: Tensor, noise: Tensor | None
) -> Tensor:
    """x at t_next: mixed from x0 and eps at s <= t_next, then noised up from s; without noise s is t_next."""
    x_s = schedule.mix(x0, eps, s)
    return x_s if noise is None else schedule.renoise(x_s, noise, s, t_next)


def undershoot(times: Tensor, eta: float) -> Tensor:
    """s = floor((1 - eta) t), where a step lands before noise is added back."""
    return torch.floor((1 - eta) * times).long() if eta > 0 else times


class ImageNoise:
    """Standard normal noise for a batch of pictures, each drawn from its own seed on the CPU.

    A picture depends on its seed alone: not on the batch it is in, nor on the device. The draws are those of
    a diffusers pipeline that is given one CPU generator per picture.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [Generator("cpu").manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The next noise of every picture, float32 [B, *shape]."""
        rows = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(rows).to(device)
