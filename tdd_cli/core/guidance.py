"""Classifier-free guidance, and the share of empty prompts that keeps it tunable after distillation.

One convention everywhere: `scale` 1 is off, as in diffusers. The paper's w, in e(c) + w (e(c) - e(null)), is
scale - 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tdd_cli.core.device import moved

Cond = dict[str, Tensor]
"""What a network takes besides x_t and t: tensors whose first dimension is the batch."""

Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t [B, ...], t [B], cond) -> prediction [B, ...]."""

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> prediction [B, ...]: a network with its condition, perhaps guidance, filled in."""


def conditioned(net: Network, cond: Cond) -> Denoiser:
    """The network under one condition: one call a step."""
    return lambda x_t, t: net(x_t, t, cond)


def guided(net: Network, cond: Cond, null: Cond, scale: float, *, rows: Tensor | None = None) -> Denoiser:
    """e(null) + scale (e(cond) - e(null)), both halves in one batched call (Ho and Salimans 2022).

    `rows` are the indices of the samples to guide, all by default: the others, whose prompt is empty anyway,
    skip the null half. scale = 1 is the plain network.
    """
    if scale == 1 or (rows is not None and len(rows) == 0):
        return conditioned(net, cond)
    some = next(iter(cond.values()))
    chosen = torch.arange(len(some), device=some.device) if rows is None else rows
    both = concat(cond, take(null, chosen))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        out = net(torch.cat([x_t, x_t[chosen]]), torch.cat([t, t[chosen]]), both)
        pred, without = out[: len(x_t)], out[len(x_t) :]
        return pred.index_copy(0, chosen, torch.lerp(without, pred[chosen], scale))

    return denoise


def post_tuned(
    student: Network, teacher: Network, cond: Cond, null: Cond, *, scale: float, trained_scale: float
) -> Denoiser:
    """Guidance changed afterwards for a student distilled at `trained_scale` without empty prompts.

    Undoing the built-in guidance gives e' = [e(c) + (W - 1) e(null)] / W, W = trained_scale; applying the new
    one gives e(null) + scale (e' - e(null)) = e(null) + (scale / W) (e(c) - e(null)). Such a student has no
    null of its own, so e(null) is the teacher's. TDD, arXiv 2409.01347, Fig. 5b (inferred: the paper's
    equation is not at hand). Two calls a step; one, the student's, where scale is the trained one.
    """
    if scale == trained_scale:
        return conditioned(student, cond)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(teacher(x_t, t, null), student(x_t, t, cond), scale / trained_scale)

    return denoise


def drop_text(cond: Cond, null: Cond, keep: Tensor) -> tuple[Cond, Tensor]:
    """(cond with the samples where `keep` [B] is False emptied, indices of the samples that keep their
    prompt).

    `keep` is a boolean tensor on the CPU, so that its outcome is known without asking the device. Students
    that saw about one empty prompt in five keep an unconditional branch, and with it a guidance that can be
    tuned afterwards.
    """
    some = next(iter(cond.values()))
    mask = moved(keep, some.device)
    dropped = {name: torch.where(_like(mask, value), value, null[name]) for name, value in cond.items()}
    return dropped, moved(keep.nonzero().squeeze(1), some.device)


def concat(*conds: Cond) -> Cond:
    """Conditions one after another along the batch."""
    return {name: torch.cat([cond[name] for cond in conds]) for name in conds[0]}


def take(cond: Cond, rows: Tensor) -> Cond:
    """The samples `rows` of a condition."""
    return {name: value[rows] for name, value in cond.items()}


def _like(mask: Tensor, value: Tensor) -> Tensor:
    """mask [B] as [B, 1, ...] with value's number of dimensions."""
    return mask.reshape(-1, *(1,) * (value.ndim - 1))
