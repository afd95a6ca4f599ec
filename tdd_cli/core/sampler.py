"""The few-step sampler: estimate x0, jump a little below the next time, add fresh noise back up to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tdd_cli.core.device import moved
from tdd_cli.core.guidance import Denoiser
from tdd_cli.core.schedule import NoiseSchedule

Clip = Callable[[Tensor], Tensor]
"""x0 [B, ...] -> x0 [B, ...]."""

Hold = Callable[[Tensor, int], Tensor]
"""(x [B, ...] after step i, i) -> x: what is put back after a step; see core.edit."""


def sample(
    schedule: NoiseSchedule,
    denoise: Denoiser | Sequence[Denoiser],
    x_t: Tensor,
    times: Tensor,
    *,
    eta: float = 0.0,
    noise: Sequence[Tensor] | Tensor = (),
    clip: Clip | None = None,
    clip_steps: int = 0,
    hold: Hold | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (x_next, x0 estimate) after each of the K steps; after the last both are the picture's x0.

    x_t is [B, ...] at times[0], and times [K] descend, on the schedule's device. `denoise` is one network for
    all steps, or one for each (guided only where it pays). `eta` in 0..1 is the share by which a step
    undershoots the next time; eta > 0 needs `noise`, K - 1 tensors [B, ...]. `clip` acts on the x0 of the
    first `clip_steps` steps, `hold` on what every step returns. Nothing is read back from the device.

    eta = 0 is DDIM (PCM, TDD); eta is CTM's gamma; eta = 1 re-noises from 0, as LCM does.
    """
    networks = denoise if isinstance(denoise, Sequence) else [denoise] * len(times)
    for i, step in enumerate(plan(schedule, times, eta)):
        pred = networks[i](x_t, times[i].expand(len(x_t)))
        fresh = noise[i] if eta > 0 and i + 1 < len(times) else None
        x_t, x0 = step(x_t, pred, fresh, clip if i < clip_steps else None)
        if hold is not None:
            x_t = hold(x_t, i)
        yield x_t, x0


class Step(NamedTuple):
    """One step t -> t_next as its coefficients, scalars on the device; times and eta are in them.

    x0     = x0_x x_t + x0_pred pred
    x_next = next_x x_t + next_pred pred + next_x0 (clip(x0) - x0) + next_noise z
    """

    x0_x: Tensor
    x0_pred: Tensor
    next_x: Tensor
    next_pred: Tensor
    next_x0: Tensor
    next_noise: Tensor

    def __call__(
        self, x_t: Tensor, pred: Tensor, noise: Tensor | None = None, clip: Clip | None = None
    ) -> tuple[Tensor, Tensor]:
        """(x_next, x0), each [B, ...], float32 in and out."""
        x0 = torch.addcmul(self.x0_x * x_t, self.x0_pred, pred)
        x_next = torch.addcmul(self.next_x * x_t, self.next_pred, pred)
        if clip is not None:
            clipped = clip(x0)
            x_next = torch.addcmul(x_next, self.next_x0, clipped - x0)
            x0 = clipped
        if noise is not None:
            x_next = torch.addcmul(x_next, self.next_noise, noise)
        return x_next, x0


def plan(schedule: NoiseSchedule, times: Tensor, eta: float) -> list[Step]:
    """The K steps of a schedule, times [K] descending, the last one to x0 itself.

    A step is linear in what goes in, so its coefficients are what the formulas make of ones and zeros.
    """
    t_next = times[1:]
    s = undershoot(t_next, eta)
    one = torch.ones_like(schedule.alpha[times])  # [K]
    zero = torch.zeros_like(one)

    def landed(x0: Tensor, eps: Tensor, z: Tensor) -> Tensor:
        x_s = schedule.mix(x0[:-1], eps[:-1], s)
        return torch.cat([schedule.renoise(x_s, z[:-1], s, t_next), x0[-1:]])

    x0_x, eps_x = schedule.split(one, zero, times)
    x0_pred, eps_pred = schedule.split(zero, one, times)
    columns = (
        x0_x,
        x0_pred,
        landed(x0_x, eps_x, zero),
        landed(x0_pred, eps_pred, zero),
        landed(one, zero, zero),
        landed(zero, zero, one),
    )
    return [Step(*row) for row in zip(*(column.unbind() for column in columns), strict=True)]


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
        return moved(torch.stack(rows), device)
