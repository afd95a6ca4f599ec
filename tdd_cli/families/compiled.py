"""Networks compiled by torch.compile, for sampling and for training."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from tdd_cli.errors import MissingComponent, UsageError


def compile_net(net: nn.Module, *, graphs: bool = False) -> nn.Module:
    """The network compiled at its first call, once for each kind of call; it shares the weights with `net`.

    graphs  let CUDA launch a whole pass at once: for passes of one shape, which training's are not
    """
    made: nn.Module = torch.compile(net, mode="reduce-overhead" if graphs else "default")  # type: ignore[assignment]
    return made


def check_compiler(device: torch.device, *, sharded: bool = False) -> None:
    """Raise MissingComponent where torch.compile lacks what it makes code with; UsageError under FSDP2."""
    if sharded:
        raise UsageError(
            "train.compile does not go with FSDP2 here", hint="Leave it at false, or train under DDP."
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise MissingComponent(
            "torch.compile needs the package triton, which is not installed",
            hint="Install a torch with CUDA, which brings it, or leave train.compile at false.",
        )
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise MissingComponent(
            "torch.compile needs a C++ compiler on a CPU, and there is none",
            hint="Install g++ or clang++ (or name one in CXX), or leave train.compile at false.",
        )
