"""A moving average of the student over its steps: steadier than the student after any one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The averages of some parameters, in float32 on their device. They start as the parameters are."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        """Take in the parameters as they are after optimizer step `step`, counted from 0."""
        get_ema_multi_avg_fn(warmed(self.decay, step))(self.averages, self.parameters, step)

    @torch.no_grad()
    def restart(self) -> None:
        """Average anew, from the parameters as they are."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the parameters are their averages; afterwards, to the bit, what they were."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """One parameter after the other, so that no second copy of all of them is needed."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)


def warmed(decay: float, step: int) -> float:
    """The decay at a step: (1 + step) / (10 + step) until that exceeds `decay`.

    So the average soon forgets where the parameters started: the warm-up of TensorFlow's and diffusers' EMA.
    """
    return min(decay, (1 + step) / (10 + step))
