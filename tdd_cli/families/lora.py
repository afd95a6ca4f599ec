"""Adapters: put on, taken off, switched off for the teacher, saved, loaded, and checked after saving.

Adapters are made by diffusers' `add_adapter` (keys made by PEFT's `get_peft_model` do not load elsewhere) and
saved under PEFT's names (the conversion to diffusers' older names loses convolutions), with alpha / rank
multiplied into lora_B, so that strength 1 is right for every program, also for those that read no alpha.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tdd_cli.errors import UsageError
from tdd_cli.families.loading import PICKLES, check_header

State = dict[str, Tensor]  # "module.lora_A.weight" -> tensor, as PEFT names them

# a key of a LoRA file: module, which of its tensors; both of diffusers' spellings
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora\.down\.weight|lora\.up\.weight|alpha)"
)
_PART = {"lora.down.weight": "lora_A.weight", "lora.up.weight": "lora_B.weight"}


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
    """The adapter with alpha / rank multiplied into lora_B, float32, on the CPU."""
    scale = {name: layer.scaling["default"] for name, layer in _layers(net)}
    folded = {}
    for key, value in lora_state(net).items():
        module, part = _split(key)
        factor = scale[module] if part == "lora_B.weight" else 1.0
        folded[key] = (value.detach().float().cpu() * factor).contiguous()
    return folded


def save_lora(net: Any, path: Path | str, metadata: Mapping[str, str], *, prefix: str = "unet") -> None:
    """Write the adapter as a .safetensors file in diffusers' layout; written beside, then renamed."""
    path = Path(path)
    state = {f"{prefix}.{key}": value for key, value in folded_state(net).items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(state, part, metadata={"format": "pt", **metadata})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# --- loading ---


def load_lora(
    net: Any, source: Path | str | Mapping[str, Tensor], *, scale: float = 1.0, prefix: str = "unet"
) -> int:
    """Put a saved adapter on a network without one; the number of modules matched, which is all in the file.

    Reads what `save_lora` and diffusers' save_lora_weights write (with an alpha per module, if any). `scale`
    is the strength; it and alpha / rank are multiplied into lora_B. The parameters are float32 and frozen.

    Raises UsageError if any module of the file has no counterpart in the network, or is only half there.
    """
    assert not lora_modules(net), "load_lora needs a network without an adapter"
    name, state, alphas = read_lora(source, prefix)
    modules = _matched(net, name, state)
    rank = {module: state[f"{module}.lora_A.weight"].shape[0] for module in modules}
    for module in modules:
        factor = scale * alphas.get(module, rank[module]) / rank[module]
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


def read_lora(source: Path | str | Mapping[str, Tensor], prefix: str) -> tuple[str, State, dict[str, float]]:
    """(name for messages, tensors under PEFT's names, alpha by module) of a LoRA file or state."""
    name, metadata = "the adapter", dict[str, str]()
    if isinstance(source, Mapping):
        raw = dict(source)
    else:
        name, (raw, metadata) = str(source), _read(Path(source))
    state: State = {}
    alphas: dict[str, float] = {}
    for key, value in raw.items():
        module, part = _split(key.removeprefix(f"{prefix}."))
        if part == "alpha":
            alphas[module] = float(value)
        else:
            state[f"{module}.{part}" if part else key] = value
    for key in state:
        module, _ = _split(key)
        if module not in alphas and (alpha := _alpha_of(metadata, module, prefix)) is not None:
            alphas[module] = alpha
    return name, state, alphas


def _read(path: Path) -> tuple[State, dict[str, str]]:
    if path.suffix.lower() in PICKLES:
        raise UsageError(f"{path} is a pickle", hint="tdd reads LoRA files as .safetensors only")
    if not path.is_file():
        raise UsageError(f"no LoRA file at {path}", hint="give the .safetensors file that tdd distill wrote")
    check_header(path)
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
        return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}


def _alpha_of(metadata: Mapping[str, str], module: str, prefix: str) -> float | None:
    """A module's alpha by the LoraConfig that diffusers may write into a file's metadata."""
    try:
        config = json.loads(metadata["lora_adapter_metadata"])
    except (KeyError, ValueError):
        return None
    for pattern, alpha in (config.get(f"{prefix}.alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    alpha = config.get(f"{prefix}.lora_alpha")
    return None if alpha is None else float(alpha)


def _matched(net: nn.Module, name: str, state: Mapping[str, Tensor]) -> list[str]:
    """The modules of a LoRA state, all of which the network has, with both halves of the right shape."""
    layers = dict(net.named_modules())
    modules = list(dict.fromkeys(_split(key)[0] for key in state))
    good = [module for module in modules if _fits(layers.get(module), module, state)]
    if modules and len(good) == len(modules):
        return good
    bad = next((module for module in modules if module not in set(good)), "none at all")
    raise UsageError(
        f"{name} fits this model in {len(good)} of {len(modules)} modules; the first that does not: {bad}",
        hint="it was made for another model, or is in another layout than diffusers'",
    )


def _fits(layer: nn.Module | None, module: str, state: Mapping[str, Tensor]) -> bool:
    down, up = state.get(f"{module}.lora_A.weight"), state.get(f"{module}.lora_B.weight")
    if down is None or up is None or not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    if down.shape[0] != up.shape[1]:
        return False
    inner = layer.weight.shape[1:]  # [in] or [in, kh, kw]
    return down.shape[1:] == inner and up.shape[0] == layer.weight.shape[0]


# --- checking ---


@dataclass(frozen=True)
class Reload:
    """What came of loading a saved adapter into a fresh network."""

    matched: int  # modules whose weights came back exactly, alpha / rank multiplied in
    total: int  # modules that carry the trained adapter
    delta: float  # largest difference between the two networks' outputs
    allowed: float  # how much of it rounding may make: matrix kernels round by where in memory a weight lies

    @property
    def ok(self) -> bool:
        """Whether the file is as good as the network it was saved from."""
        return self.matched == self.total and self.delta <= self.allowed


def check_saved(
    path: Path | str, net: Any, fresh: Any, forward: Callable[[Any], Tensor], *, prefix: str = "unet"
) -> Reload:
    """Load the file at `path` into `fresh` (see `bare_copy`) and compare forward(fresh) with forward(net)."""
    load_lora(fresh, path, prefix=prefix)
    with torch.no_grad():
        ours, theirs = forward(net).float(), forward(fresh).float()
    rounding = 1e-4 if next(net.parameters()).dtype == torch.float32 else 2e-2
    allowed = rounding * ours.abs().max().item()
    return Reload(_same(net, fresh), len(lora_modules(net)), (ours - theirs).abs().max().item(), allowed)


def _same(net: Any, fresh: Any) -> int:
    """How many modules have the same adapter in both networks."""
    want, got = folded_state(net), folded_state(fresh)
    pairs = [(f"{module}.lora_A.weight", f"{module}.lora_B.weight") for module in lora_modules(net)]
    return sum(all(key in got and torch.equal(want[key], got[key]) for key in pair) for pair in pairs)


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


def _split(key: str) -> tuple[str, str]:
    """("module", "lora_A.weight") of a key of a LoRA file; ("key", "") where it is none."""
    found = _KEY.fullmatch(key)
    if not found:
        return key, ""
    return found["module"], _PART.get(found["part"], found["part"])
