"""Offloading: every part waits in main memory and visits the device for its own work, one part at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from tdd_cli.families.base import Family


def offload(family: Family, device: torch.device | str) -> None:
    """Make the network, the text encoders and the VAE of a family take turns on `device`.

    Memory there is that of the largest part; each turn costs a transfer of the part's weights. What goes in
    and comes out is in main memory, and so is the sampler's arithmetic.
    """
    family.to("cpu")
    guest: list[nn.Module] = []  # the part on the device

    def visiting(part: nn.Module, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if guest != [part]:
                for other in guest:
                    other.to("cpu")
                guest[:] = [part.to(device)]
            out = work(*send_to_device(args, device), **send_to_device(kwargs, device))
            return send_to_device(out, "cpu")

        return call

    parts: list[Any] = [part for part in family.pipeline().components.values() if isinstance(part, nn.Module)]
    for part in {id(part): part for part in [family.net, *parts]}.values():
        for name in ("forward", "encode", "decode"):
            if hasattr(part, name):
                setattr(part, name, visiting(part, getattr(part, name)))
