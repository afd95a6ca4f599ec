"""A network trained with its adapter added to the weights: the same function, as fast as the bare network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tdd_cli.families.lora import adapter_off

SHORT = 1024  # positions of a latent whose attention weights are small enough to be kept


class Merged(nn.Module):
    """`net` computing with W + (alpha / rank) B A in the place of every adapted W, differentiable in A and B.

    Beside the weights, an adapter costs two thin products for each module, whatever its rank; in a small
    network these take nearly half as long as all the rest. Merged it costs none, but a copy of the adapted
    weights and of their gradients: too much for a large network. The sum is float32, where A and B are, since
    16 bits swallow small updates; autocast turns it to 16 bits where it is used.

    weights  what merged_weights gave (None: made at every pass)
    """

    def __init__(self, net: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.net, self.weights = net, weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weights = merged_weights(self.net) if self.weights is None else self.weights
        with adapter_off(self.net):
            return functional_call(self.net, dict(weights), args, kwargs)


class Held:
    """Weights made anew whenever asked for, but within `steady` once: nothing may change them there."""

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self.make = make
        self.kept: dict[str, Tensor] | None = None

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Within it passes with gradients and without share the weights; only the former record a graph."""
        with torch.enable_grad():
            self.kept = self.make()
        try:
            yield
        finally:
            self.kept = None

    def get(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return self.make() if self.kept is None else self.kept


def merged_weights(net: nn.Module) -> dict[str, Tensor]:
    """The weight of every adapted module with the adapter added, by parameter name."""
    return {
        f"{name}.base_layer.weight": layer.get_base_layer().weight + layer.get_delta_weight("default")
        for name, layer in net.named_modules()
        if isinstance(layer, LoraLayer)
    }


def trainable_attention(x_t: Tensor) -> AbstractContextManager[None]:
    """A context in which attention is quick to differentiate.

    On a CPU the fused kernel's backward takes several times as long as the plain form's, whose only cost is
    the memory for the attention weights: affordable for short sequences.
    """
    short = x_t.shape[-2] * x_t.shape[-1] <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if x_t.device.type == "cpu" and short else nullcontext()
