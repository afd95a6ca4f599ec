"""Adapters: put on, taken off, switched off for the teacher, saved, loaded, and checked after saving.

Adapters are made by diffusers' `add_adapter` (keys made by PEFT's `get_peft_model` do not load elsewhere) and
saved under PEFT's names (the conversion to diffusers' older names loses convolutions), with alpha / rank
multiplied into lora_B, so that strength 1 is right for every program, also for those that read no alpha.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tdd_cli.errors import UsageError
from tdd_cli.families.lora_file import State, read_lora, split_key, write_state
from tdd_cli.families.sharded import part_of, whole

# --- making ---


def add_lora(
    net: Any,
    targets: Sequence[str],
    *,
    rank: int,
    alpha: float | None = None,
    generator: torch.Generator | None = None,
) -> list[nn.Parameter]:
    """Put an adapter on a network without one and return its parameters (float32); all others are frozen.

    targets    suffixes of module names; alpha: update scale times rank (None: rank, so scale 1)
    generator  draws lora_A, on the CPU so that every device gets the same (None: seed 0); lora_B is 0, so the
               network computes what it did before. The global generator is left alone.

    Raises UsageError if no module has such a name.
    """
    if not any(_is_target(name, targets) for name, _ in net.named_modules()):
        raise UsageError(
            f"the LoRA targets {', '.join(targets)} match no module of the network", hint="see lora.targets"
        )
    with torch.random.fork_rng(devices=[]):
        _adapt(
            net, LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))
        )
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in _layers(net):
            weight = layer.lora_A["default"].weight
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)  # PEFT's own choice
            weight.copy_(drawn)
    return lora_parameters(net)


def lora_parameters(net: nn.Module) -> list[nn.Parameter]:
    """The adapter's parameters, in the order of the network's modules."""
    return [half["default"].weight for _, layer in _layers(net) for half in (layer.lora_A, layer.lora_B)]


@contextmanager
def adapter_off(net: nn.Module) -> Iterator[None]:
    """Within it the network is the teacher: the one the adapter was put on. May be nested.

    A network without an adapter has no teacher inside it: see `frozen_copy`.
    """
    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    assert layers, "adapter_off needs an adapter; a full fine-tune keeps a frozen_copy as its teacher"
    before = [layer._disable_adapters for layer in layers]
    try:
        # The flag alone: PEFT's enable_adapters would also switch requires_grad, and on for all at the end.
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


def frozen_copy(net: nn.Module) -> nn.Module:
    """A second copy of the network that nothing trains: the teacher of a full fine-tune."""
    return copy.deepcopy(net).eval().requires_grad_(False)


def bare_copy(net: Any) -> Any:
    """A frozen copy of the network without its adapter: what a saved file is tried on."""
    bare: Any = frozen_copy(net)
    if lora_modules(net):
        bare.unload_lora()
    return bare


def unfreeze(net: nn.Module) -> list[nn.Parameter]:
    """Make the whole network trainable, in float32 (16 bits swallow small updates); its parameters."""
    assert not lora_modules(net), "a network has either an adapter or a full fine-tune"
    net.float().requires_grad_(True)
    return list(net.parameters())


def lora_modules(net: nn.Module) -> list[str]:
    """The names of the modules that carry an adapter."""
    return [name for name, _ in _layers(net)]


# --- keeping ---


def lora_state(net: Any) -> State:
    """The adapter's tensors as they are, alpha not multiplied in: for checkpoints. Not copies."""
    return dict(get_peft_model_state_dict(net, adapter_name="default", save_embedding_layers=False))


def set_lora_state(net: Any, state: Mapping[str, Tensor]) -> None:
    """Put back what `lora_state` gave, into the same adapter made anew by `add_lora`."""
    have, given = set(lora_state(net)), set(state)
    if have != given:
        raise UsageError(
            f"the checkpoint's adapter fits {len(have & given)} of {len(have)} tensors",
            hint="resume with the recipe the run was started with",
        )
    set_peft_model_state_dict(net, dict(state), adapter_name="default")


def folded_state(net: Any) -> State:
    """The adapter with alpha / rank multiplied into lora_B, float32, on the CPU.

    Of a sharded network's it is whole, and all processes must ask for it.
    """
    scale = {name: layer.scaling["default"] for name, layer in _layers(net)}
    folded = {}
    for key, value in lora_state(net).items():
        module, part = split_key(key)
        factor = scale[module] if part == "lora_B.weight" else 1.0
        folded[key] = (whole(value.detach()).float().cpu() * factor).contiguous()
    return folded


@contextmanager
def another_adapter(net: nn.Module, folded: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the adapter is another, as `folded_state` gives it; zero where a tensor is missing."""
    state = {name: value.detach() for name, value in lora_state(net).items()}
    before = {name: value.clone() for name, value in state.items()}
    layers = [layer for _, layer in _layers(net)]
    scales = [layer.scaling["default"] for layer in layers]
    for name, value in state.items():
        value.copy_(part_of(folded[name], value) if name in folded else torch.zeros_like(value))
    for layer in layers:
        layer.scaling["default"] = 1.0
    try:
        yield
    finally:
        for name, value in state.items():
            value.copy_(before[name])
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling["default"] = scale


def save_lora(
    net: Any,
    path: Path | str,
    metadata: Mapping[str, str],
    *,
    prefix: str = "unet",
    dtype: torch.dtype = torch.float32,
    write: bool = True,
) -> None:
    """Write the adapter as a .safetensors file in diffusers' layout; written beside, then renamed.

    write  False for a process that only takes part in gathering a sharded adapter
    """
    state = {f"{prefix}.{key}": value.to(dtype) for key, value in folded_state(net).items()}
    if write:
        write_state(Path(path), state, metadata)


# --- loading ---


def load_lora(
    net: Any,
    source: Path | str | Mapping[str, Tensor],
    *,
    scale: float = 1.0,
    prefix: str = "unet",
    alpha: float | None = None,
) -> int:
    """Put a saved adapter on a network without one; the number of modules matched, which is all in the file.

    Reads every spelling in use (lora_file). `scale` is the strength; it and alpha / rank are multiplied into
    lora_B. `alpha` is for files that have lost it. The parameters are float32 and frozen.

    Raises UsageError if any module of the file has no counterpart in the network, or is only half there.
    """
    assert not lora_modules(net), "load_lora needs a network without an adapter"
    file = read_lora(source, net, prefix=prefix, alpha=alpha)
    modules = _matched(net, file.name, file.state)
    state = dict(file.state)
    rank = {module: state[f"{module}.lora_A.weight"].shape[0] for module in modules}
    for module in modules:
        factor = scale * file.alphas.get(module, rank[module]) / rank[module]
        state[f"{module}.lora_B.weight"] = state[f"{module}.lora_B.weight"].float() * factor
    usual = Counter(rank.values()).most_common(1)[0][0]
    odd = {re.escape(module): r for module, r in rank.items() if r != usual}
    exactly = "|".join(re.escape(module) for module in modules)  # a list would match by suffix
    with torch.random.fork_rng(devices=[]):
        _adapt(
            net,
            LoraConfig(
                r=usual, lora_alpha=usual, rank_pattern=odd, alpha_pattern=odd, target_modules=f"({exactly})"
            ),
        )
    set_peft_model_state_dict(net, state, adapter_name="default")
    for parameter in lora_parameters(net):
        parameter.requires_grad_(False)
    return len(modules)


def _matched(net: nn.Module, name: str, state: Mapping[str, Tensor]) -> list[str]:
    """The modules of a LoRA state, all of which the network has, with both halves of the right shape."""
    layers = dict(net.named_modules())
    modules = list(dict.fromkeys(split_key(key)[0] for key in state))
    good = [module for module in modules if _fits(layers.get(module), module, state)]
    if modules and len(good) == len(modules):
        return good
    bad = next((module for module in modules if module not in set(good)), "none at all")
    raise UsageError(
        f"{name} fits this model in {len(good)} of {len(modules)} modules; the first that does not: {bad}",
        hint="it is for another model, or holds what tdd does not read: text encoders, DoRA, LoHa, LoKr",
    )


def _fits(layer: nn.Module | None, module: str, state: Mapping[str, Tensor]) -> bool:
    down, up = state.get(f"{module}.lora_A.weight"), state.get(f"{module}.lora_B.weight")
    if down is None or up is None or not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    if down.shape[0] != up.shape[1]:
        return False
    inner = layer.weight.shape[1:]  # [in] or [in, kh, kw]
    return down.shape[1:] == inner and up.shape[0] == layer.weight.shape[0]


# --- small things ---


def _adapt(net: Any, config: LoraConfig) -> None:
    net.requires_grad_(False)
    net.add_adapter(config)
    for parameter in lora_parameters(net):
        parameter.data = parameter.data.float()


def _layers(net: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in net.named_modules():
        if isinstance(module, LoraLayer) and "default" in module.lora_A:
            yield name, module


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)
