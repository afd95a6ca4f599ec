"""The most memory a computation takes at once, found without taking any: tensors without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def weightless(device: str) -> Iterator[None]:
    """Within it tensors are on `device` and take no memory; autocast and kernels are those of that device."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
        yield


def reborn(module: nn.Module) -> None:
    """Inside `weightless`: a module made on the meta device gets parameters and buffers of there."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(_like(parameter), parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, _like(buffer))


def peak_bytes(call: Callable[[], object], *, known: Iterable[Tensor] = ()) -> int:
    """The most bytes that tensors made during `call` take at the same time, the `known` not counted."""
    live = _Live(known)
    with live:
        call()
    return live.peak


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors made within it, until they are freed."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.seen = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._made(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _made(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
