"""Weights spread over processes (FSDP2): gathered, and put back where they belong.

What is said to be of all processes must be called by all of them, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def is_sharded(net: nn.Module) -> bool:
    """Whether other processes hold parts of the weights: a forward pass is then of all processes."""
    return _of_torch("fsdp", "FSDPModule", net)


def whole(value: Tensor) -> Tensor:
    """A tensor with the parts of all processes; of all processes where it is sharded."""
    full: Any = value
    return full.full_tensor() if _of_torch("tensor", "DTensor", value) else value


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> State:
    """Copies on the CPU, whole, that share no memory; of all processes.

    Those without `keep` take part and get nothing. One tensor after the other: no device holds more than one
    of them whole.
    """
    kept = {}
    for name, value in tensors.items():
        one = whole(value.detach())
        if keep:
            kept[name] = torch.empty(one.shape, dtype=one.dtype).copy_(one)
    return kept


def part_of(value: Tensor, there: Tensor) -> Tensor:
    """What this process holds of `value` where it stands in the place of `there`."""
    if not _of_torch("tensor", "DTensor", there) or value.shape != there.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    place: Any = there
    value = value.to(there.device, there.dtype)
    return distribute_tensor(value, place.device_mesh, place.placements, src_data_rank=None)


def parts_of(state: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> State:
    """`part_of` for a state; what has no counterpart stays as it is."""
    return {name: part_of(value, there[name]) if name in there else value for name, value in state.items()}


def rest(net: nn.Module) -> None:
    """Give up what was gathered for a forward pass, and is stale once a weight was changed by hand."""
    for module in net.modules():
        if is_sharded(module):
            sharded: Any = module
            sharded.reshard()


def plain_copy(net: Any, *, keep: bool) -> Any:
    """The network whole, of its own class, on the CPU; of all processes, those without `keep` get None."""
    state = gathered(net.state_dict(), keep=keep)
    if not keep:
        return None
    from torch.distributed.fsdp import FSDPModule

    own: Any = next(cls for cls in type(net).__mro__ if not issubclass(cls, FSDPModule))
    with torch.device("meta"):
        copy = own.from_config(net.config)
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def _of_torch(module: str, name: str, value: object) -> bool:
    """isinstance with a class of torch.distributed, which is imported only where there are processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return isinstance(value, getattr(__import__(f"torch.distributed.{module}", fromlist=[name]), name))
