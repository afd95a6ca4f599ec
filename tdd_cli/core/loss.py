"""The distillation step: the student's jump must agree with itself after one step of the teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tdd_cli.core.guidance import Denoiser
from tdd_cli.core.schedule import NoiseSchedule

Distance = Callable[[Tensor, Tensor], Tensor]
"""(prediction [B, ...], target [B, ...]) -> scalar."""


def distillation_loss(
    schedule: NoiseSchedule,
    student: Denoiser,
    teacher: Denoiser,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    t_prev: Tensor,
    s: Tensor,
    distance: Distance,
) -> Tensor:
    """distance(f(x_t, t -> s), f(x_prev, t_prev -> s)), where the teacher carried x_t to x_prev. A scalar.

    x0 and noise are [B, ...], times integers [B] with s <= t_prev <= t. `teacher` is guided already.
    Gradients flow through the student's jump from t alone; there is no average of its weights and no
    weighting over time. TDD, arXiv 2409.01347, algorithm 1.
    """
    x_t = schedule.mix(x0, noise, t)
    with torch.no_grad():
        x_prev = schedule.jump(x_t, teacher(x_t, t), t, t_prev)
        theirs = schedule.jump(x_prev, student(x_prev, t_prev), t_prev, s)
    ours = schedule.jump(x_t, student(x_t, t), t, s)
    return distance(ours, theirs)


def pseudo_huber(*, c: float = 0.001) -> Distance:
    """mean(sqrt(d^2 + c^2) - c): like |d| far out, like d^2 / 2c below c."""
    return lambda ours, theirs: ((ours - theirs).square() + c * c).sqrt().mean() - c


def l2() -> Distance:
    """mean(d^2)."""
    return lambda ours, theirs: (ours - theirs).square().mean()


LOSSES: dict[str, Callable[..., Distance]] = {"pseudo_huber": pseudo_huber, "l2": l2}
