"""From the losses of a step to an update of the student, over all its passes and processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tdd_cli.families.base import Family
from tdd_cli.families.sharded import whole
from tdd_cli.training.optimizers import found_rate, unwrapped


@dataclass(frozen=True)
class Update:
    """An optimizer step, done or skipped. Tensors stay on the device until somebody reads them."""

    grad_norm: Tensor  # scalar, before clipping; where it is not finite, nothing was changed
    lr: float  # in use: with Prodigy times what it has found
    scale: Tensor | None = None  # what fp16's gradient scaler multiplied the loss with


class Descent(Protocol):
    """Backward passes, and then a step."""

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """Around a forward and backward pass; processes need to exchange gradients in the last one only."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar."""

    def step(self, lr: float) -> Update:
        """Clip the gradients, use them where they are finite, and forget them."""


@dataclass(frozen=True)
class Plain(Descent):
    """Accelerate's way: in one process, under DDP and under FSDP2."""

    family: Family
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    grad_clip: float

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """See Descent."""
        return nullcontext() if last else self.accelerator.no_sync(self.family.net)

    def backward(self, loss: Tensor) -> None:
        """See Descent."""
        self.accelerator.backward(loss)

    def step(self, lr: float) -> Update:
        """See Descent."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        rate = lr * found_rate(self.optimizer)
        grad_norm = whole(self.accelerator.clip_grad_norm_(self.parameters, self.grad_clip))
        scaler = self.accelerator.scaler
        scale = None if scaler is None else scaler.scale(torch.ones_like(grad_norm))
        update(self.optimizer, grad_norm, scaled=scaler is not None)
        self.optimizer.zero_grad()
        return Update(grad_norm, rate, scale)


def update(optimizer: torch.optim.Optimizer, grad_norm: Tensor, *, scaled: bool) -> None:
    """Step, unless the gradient is not finite: then parameters and the optimizer's state stay as they are.

    A loss that is not finite makes the gradient so, on every process. torch's own optimizers are told on the
    device, so that nothing waits for the answer; with others the host waits. A gradient scaler (`scaled`)
    does the same by itself.
    """
    inner = unwrapped(optimizer)
    if scaled:
        optimizer.step()
    elif getattr(inner, "_step_supports_amp_scaling", False):
        inner.found_inf = (~torch.isfinite(grad_norm)).float()
        optimizer.step()
        del inner.found_inf
    elif torch.isfinite(grad_norm):
        optimizer.step()
