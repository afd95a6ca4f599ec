"""The randomness of one optimizer step, a function of (seed, step): resuming and splitting change nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tdd_cli.core.sampler import ImageNoise
from tdd_cli.core.targets import Selector
from tdd_cli.core.times import draw_teacher_steps
from tdd_cli.data.random import Use, generator_at, seed_at


@dataclass(frozen=True)
class Draws:
    """What is drawn for B samples, on the CPU."""

    t: Tensor  # [B] where the sample is noised to
    t_prev: Tensor  # [B] where the teacher's step ends
    s: Tensor  # [B] where the student's jump lands
    keep: Tensor  # [B] bool, False where the prompt is dropped
    seeds: list[int]  # [B] of the noise

    def part(self, rows: slice) -> Draws:
        """The draws of some of the samples."""
        return Draws(self.t[rows], self.t_prev[rows], self.s[rows], self.keep[rows], self.seeds[rows])

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise [B, *shape]."""
        return ImageNoise(self.seeds).draw(shape)


def draw_step(
    times: Tensor, select: Selector, *, batch: int, drop_text: float, seed: int, step: int
) -> Draws:
    """The draws of optimizer step `step` for its whole (global) batch."""
    generator = generator_at(seed, Use.STEP, step)
    t, t_prev = draw_teacher_steps(times, batch, generator)
    s = select(t_prev, generator)
    keep = torch.rand(batch, generator=generator) >= drop_text
    seeds = [seed_at(seed, Use.NOISE, step * batch + row) for row in range(batch)]
    return Draws(t, t_prev, s, keep, seeds)
