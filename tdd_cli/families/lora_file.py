"""LoRA files: safetensors in every spelling in use, read as one; written whole or not at all.

PEFT's and diffusers' own names (lora_A / lora_B, lora.down / lora.up, attention processors), with or
without "unet." and "base_model.model." before them, and kohya's flat names, after diffusers' blocks or the
original ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tdd_cli.errors import UsageError
from tdd_cli.families.layout import PICKLES, check_header
from tdd_cli.families.libraries import readable
from tdd_cli.families.names import original_name
from tdd_cli.files import replacing

State = dict[str, Tensor]  # "module.lora_A.weight" -> tensor, as PEFT names them

SETTINGS = "tdd"  # the metadata key under which our own files say how they are sampled, as JSON
_KEY = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.(?P<part>lora_A\.weight|lora_B\.weight|lora[._]down\.weight|lora[._]up\.weight|alpha)"
    r"|_(?P<processor>lora\.down\.weight|lora\.up\.weight))"
)
_PART = {
    "lora.down.weight": "lora_A.weight",
    "lora_down.weight": "lora_A.weight",
    "lora.up.weight": "lora_B.weight",
    "lora_up.weight": "lora_B.weight",
}


@dataclass(frozen=True)
class LoraFile:
    """An adapter as a file has it."""

    name: str  # for messages
    state: State  # under the network's own module names; what it has not got stays under the file's
    alphas: Mapping[str, float]  # by module, where the file says one; the update's scale is alpha / rank


def read_lora(
    source: Path | str | Mapping[str, Tensor],
    net: nn.Module,
    *,
    prefix: str = "unet",
    alpha: float | None = None,
) -> LoraFile:
    """A LoRA file, or a state, with the module names of the network it is for.

    alpha  of every module, for a file that has lost it. UsageError where the file has its own.
    """
    name, metadata = "the adapter", dict[str, str]()
    if isinstance(source, Mapping):
        raw = dict(source)
    else:
        name, (raw, metadata) = str(source), _read(Path(source))
    modules = _spellings(net, prefix)
    state: State = {}
    alphas: dict[str, float] = {}
    for key, value in raw.items():
        spelled, part = split_key(_plain(key, prefix))
        module = modules.get(spelled, spelled)
        if part == "alpha":
            alphas[module] = float(value)
        else:
            state[f"{module}.{part}" if part else key] = value
    for module in {split_key(key)[0] for key in state} - alphas.keys():
        if (said := _alpha_of(metadata, module, prefix)) is not None:
            alphas[module] = said
    if alpha is not None:
        if alphas or SETTINGS in metadata:
            raise UsageError(f"{name} has its alpha", hint="Leave out --alpha; --scale changes the strength.")
        alphas = {split_key(key)[0]: alpha for key in state}
    return LoraFile(name, state, alphas)


def write_state(path: Path, state: State, metadata: Mapping[str, str]) -> None:
    """Write tensors as a .safetensors file; beside first, then renamed."""
    with replacing(path) as beside:
        save_file(
            {key: value.contiguous() for key, value in state.items()}, beside, {"format": "pt", **metadata}
        )


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header; UsageError where it is none."""
    check_lora_path(path)
    with readable(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def split_key(key: str) -> tuple[str, str]:
    """("module", "lora_A.weight") of a key of a LoRA file; ("key", "") where it is none."""
    found = _KEY.fullmatch(key)
    if not found:
        return key, ""
    part = found["part"] or found["processor"]
    return found["module"], _PART.get(part, part)


def check_lora_path(path: Path) -> None:
    """Refuse pickles, by name or by content, and files that are not there."""
    if path.suffix.lower() in PICKLES:
        raise UsageError(f"{path} is a pickle", hint="tdd reads LoRA files as .safetensors only")
    if not path.is_file():
        raise UsageError(f"no LoRA file at {path}", hint="give the .safetensors file that tdd distill wrote")
    check_header(path)


def _read(path: Path) -> tuple[State, dict[str, str]]:
    check_lora_path(path)
    with readable(path), safe_open(path, framework="pt") as file:
        keys = list(file.keys())
        odd = next((key for key in keys if re.search(r"[/\\\0]|\.\.", key)), None)
        if odd is not None:
            raise UsageError(f"{path} has a tensor named {odd!r}", hint="No network has that: do not use it.")
        return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}


def _spellings(net: nn.Module, prefix: str) -> dict[str, str]:
    """What files call a network's linear layers and convolutions -> its name for them."""
    config: Any = getattr(net, "config", None)
    found: dict[str, str] = {}
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        found |= {name: name, name.removesuffix(".0"): name, _flat(name, prefix): name}
        with suppress(ValueError):
            found[_flat(original_name(name, config), prefix)] = name
    return found


def _flat(name: str, prefix: str) -> str:
    return f"lora_{prefix}_{name.replace('.', '_')}"


def _plain(key: str, prefix: str) -> str:
    """A key without what trainers put around the module's name."""
    key = key.removeprefix(f"{prefix}.").removeprefix("base_model.model.")
    return key.replace(".processor.", ".")


def _alpha_of(metadata: Mapping[str, str], module: str, prefix: str) -> float | None:
    """A module's alpha by the LoraConfig that diffusers may write into a file's metadata.

    Its patterns are taken as (ends of) module names, which is what trainers write: a stranger's regular
    expression is not run.
    """
    try:
        config = json.loads(metadata["lora_adapter_metadata"])
        alpha = config.get(f"{prefix}.lora_alpha")
        for pattern, own in (config.get(f"{prefix}.alpha_pattern") or {}).items():
            if f".{module}".endswith(f".{pattern.strip('^$').replace(chr(92), '')}"):
                alpha = own
        return None if alpha is None else float(alpha)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
