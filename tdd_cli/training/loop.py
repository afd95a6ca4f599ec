"""The training loop: a generator of optimizer steps. Progress and checkpoints belong to the caller."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tdd_cli.core.device import moved
from tdd_cli.core.guidance import drop_text, guided
from tdd_cli.core.loss import Distance, distillation_loss
from tdd_cli.core.targets import Selector
from tdd_cli.data.batches import Batch, batches
from tdd_cli.data.rejects import Reject
from tdd_cli.families.base import Family
from tdd_cli.training.descent import Descent, Update
from tdd_cli.training.draws import Draws, draw_step
from tdd_cli.training.ema import Ema
from tdd_cli.training.encode import Encode
from tdd_cli.training.student import Pair


@dataclass(frozen=True)
class Step:
    """One optimizer step done. Tensors stay on the device until somebody reads them."""

    step: int  # steps done so far, this one included
    loss: Tensor  # scalar, mean over this process's samples
    update: Update
    left_out: list[Reject]  # samples of this process that could not be used; others stood in


@dataclass(frozen=True)
class Method:
    """What tells one distillation method from another."""

    times: Tensor  # the teacher's solver grid, ascending [N], on the CPU
    select: Selector  # where the student's jump lands
    distance: Distance
    guidance: float  # the teacher's scale, 1 = off
    drop_text: float  # share of samples whose prompt is emptied


@dataclass(frozen=True)
class Shares:
    """Which rows of a step's global batch this process takes, and in how many goes."""

    batch: int  # samples per optimizer step, over all processes
    micro: int  # samples in one forward pass
    process: int = 0
    processes: int = 1

    def parts(self) -> list[slice]:
        """The rows of the global batch, one slice for each forward pass."""
        each = self.batch // self.processes
        first = self.process * each
        return [
            slice(start, min(start + self.micro, first + each))
            for start in range(first, first + each, self.micro)
        ]

    def weight(self, part: slice) -> float:
        """A part's share of this process's samples, by which its mean loss counts; all of them make 1."""
        return (part.stop - part.start) * self.processes / self.batch


def train(
    family: Family,
    pair: Pair,
    method: Method,
    stream: Dataset[Batch],
    descent: Descent,
    *,
    encode: Encode,
    shares: Shares,
    lr_at: Callable[[int], float],
    seed: int,
    start: int,
    steps: int,
    workers: int = 0,
    ema: Ema | None = None,
) -> Iterator[Step]:
    """Yields after every optimizer step from `start` to `steps`.

    `encode` gives a batch's x0 and condition, `lr_at` the learning rate of the n-th step (n from 0); `ema`
    takes in the student after each.
    """
    parts = shares.parts()
    rows = (_rows(step, shares.batch, part) for step in range(start, steps) for part in parts)
    stock = batches(stream, rows, workers=workers)
    for step in range(start, steps):
        draws = draw_step(
            method.times, method.select, batch=shares.batch, drop_text=method.drop_text, seed=seed, step=step
        )
        losses, left_out = [], list[Reject]()
        for last, part in _flag_last(parts):
            batch = next(stock)
            with descent.part(last=last):
                loss = micro_loss(family, pair, method, batch, draws.part(part), encode)
                loss = loss * shares.weight(part)
                descent.backward(loss)
            losses.append(loss.detach())
            left_out += batch.left_out
        update = descent.step(lr_at(step))
        if ema is not None:
            ema.update(step)
        yield Step(step + 1, torch.stack(losses).sum(), update, left_out)


def micro_loss(
    family: Family,
    pair: Pair,
    method: Method,
    batch: Batch,
    draws: Draws,
    encode: Encode,
) -> Tensor:
    """The loss of one forward pass, a scalar: encode, drop prompts, distillation step."""
    x0, cond = encode(batch)
    null = family.null(cond)
    cond, kept = drop_text(cond, null, draws.keep)
    noise = moved(draws.noise(tuple(x0.shape[1:])), x0.device)
    t, t_prev, s = (moved(time, x0.device) for time in (draws.t, draws.t_prev, draws.s))
    with pair.steady():
        return distillation_loss(
            family.schedule,
            lambda x, at: pair.student(x, at, cond),
            guided(pair.teacher, cond, null, method.guidance, rows=kept),
            x0,
            noise,
            t,
            t_prev,
            s,
            method.distance,
        )


def learning_rate(
    lr: float, *, warmup: int, steps: int, schedule: Literal["constant", "cosine"]
) -> Callable[[int], float]:
    """lr of the n-th step: a linear rise over `warmup` steps, then constant, or half a cosine down to 0."""

    def at(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / warmup
        if schedule == "constant":
            return lr
        return lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

    return at


def _rows(step: int, batch: int, part: slice) -> range:
    """The stream's rows for one forward pass of a step."""
    return range(step * batch + part.start, step * batch + part.stop)


def _flag_last(parts: list[slice]) -> Iterator[tuple[bool, slice]]:
    for i, part in enumerate(parts):
        yield i + 1 == len(parts), part
