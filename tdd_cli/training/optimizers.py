"""The optimizers that train.optimizer chooses from: torch's own, and those of packages asked for by it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tdd_cli.training.extras import require

Parameters = Sequence[nn.Parameter]


def adamw(parameters: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW, one kernel for all parameters (Loshchilov and Hutter, 2019)."""
    return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)


def adamw_8bit(parameters: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with both moments in 8 bits, a scale for each block of them (Dettmers et al., 2022)."""
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(parameters, lr, weight_decay=weight_decay)
    return made


def paged_adamw_8bit(parameters: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The same, its moments in memory that the driver moves to the host when the GPU has none left."""
    from bitsandbytes.optim import PagedAdamW8bit

    made: torch.optim.Optimizer = PagedAdamW8bit(parameters, lr, weight_decay=weight_decay)
    return made


def prodigy(parameters: Parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that finds its learning rate, of which `lr` is a multiple (Mishchenko and Defazio, 2023).

    With the settings its authors give for diffusion models and for runs with a warm-up.
    """
    from prodigyopt import Prodigy

    with redirect_stdout(sys.stderr):  # it prints what it does with a weight decay
        made: torch.optim.Optimizer = Prodigy(
            parameters, lr, weight_decay=weight_decay, use_bias_correction=True, safeguard_warmup=True
        )
    return made


@dataclass(frozen=True)
class Choice:
    """One of OPTIMIZERS."""

    make: Callable[[Parameters, float, float], torch.optim.Optimizer]  # (parameters, lr, weight_decay)
    bytes: int  # of state for each trained number
    package: str | None = None
    extra: str = ""  # of ours, which brings the package


def optimizer_choice(name: str) -> Choice:
    """The optimizer of that name; MissingComponent where its package is not installed."""
    choice = OPTIMIZERS[name]
    if choice.package:
        require(choice.package, extra=choice.extra, setting=f"train.optimizer={name}")
    return choice


def found_rate(optimizer: torch.optim.Optimizer) -> float:
    """What an optimizer multiplies the learning rate with: Prodigy's estimate, 1 for the others."""
    return float(optimizer.param_groups[0].get("d", 1.0))


def unwrapped(optimizer: torch.optim.Optimizer) -> Any:
    """The optimizer that accelerate wraps."""
    return getattr(optimizer, "optimizer", optimizer)


def page(optimizer: torch.optim.Optimizer) -> None:
    """Put the state of a paged optimizer back into paged memory, out of which loading takes it."""
    bare = unwrapped(optimizer)
    if not getattr(bare, "is_paged", False):
        return
    for parameter, state in bare.state.items():
        for name in {"state1", "state2"} & state.keys():
            paged = bare.get_state_buffer(parameter, dtype=state[name].dtype)
            state[name] = paged.copy_(state[name])


OPTIMIZERS = {
    "adamw": Choice(adamw, 8),
    "adamw8bit": Choice(adamw_8bit, 2, "bitsandbytes", "8bit"),
    "paged_adamw8bit": Choice(paged_adamw_8bit, 2, "bitsandbytes", "8bit"),
    "prodigy": Choice(prodigy, 16, "prodigyopt", "prodigy"),
}
