"""Checkpoints: a folder per step, complete or not there at all. Tensors as safetensors, the rest as JSON.

state.json has the SHA-256 of each file beside it, and of what else it says itself.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdd_cli.errors import UsageError
from tdd_cli.families.sharded import gathered, part_of
from tdd_cli.files import replacing
from tdd_cli.hashes import file_hash, json_hash
from tdd_cli.training.optimizers import page, unwrapped

_NAME = re.compile(r"step-(\d+)")
_HALF_WRITTEN = re.compile(r"\.(step-\d+|student|adapter)\.partial-.+")  # by files.replacing
_STATE = "state.json"


def save(
    folder: Path,
    step: int,
    states: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    extra: dict[str, object],
    *,
    write: bool = True,
) -> Path:
    """Write folder/step-N, beside first and then renamed.

    states  of the student, and of its average ("ema") where there is one: a file each
    extra   JSON: the gradient scaler's state
    write   False for a process that only takes part in gathering what is sharded
    """
    final = folder / f"step-{step:06d}"
    tensors, others = optimizer_state(optimizer)
    files = {**states, "optimizer": tensors}
    if not write:
        for state in files.values():
            gathered(state, keep=False)
        return final
    with replacing(final) as beside:
        beside.mkdir()
        for name, state in files.items():
            save_file(gathered(state, keep=True), beside / f"{name}.safetensors")
        made = {"class": type(unwrapped(optimizer)).__name__, **others}
        record = {"step": step, "optimizer": made, **extra}
        hashes = {_STATE: json_hash(record)}
        hashes |= {file.name: file_hash(file) for file in sorted(beside.iterdir())}
        (beside / _STATE).write_text(json.dumps({**record, "sha256": hashes}))
    return final


def load(
    checkpoint: Path, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, object]]:
    """(steps done, states, extra) of a checkpoint, as given to `save`; the optimizer's state is put back.

    That of another optimizer than was saved, as a changed recipe may ask for, is left as it is. UsageError
    where a file is not as it was written; checkpoints of versions without hashes are taken as they are.
    """
    try:
        extra = json.loads((checkpoint / _STATE).read_text())
        _check_hashes(checkpoint, extra.pop("sha256", {}), extra)
        step = int(extra.pop("step"))
        states = {"student": load_file(checkpoint / "student.safetensors")}
        if (average := checkpoint / "ema.safetensors").exists():
            states["ema"] = load_file(average)
        tensors, others = load_file(checkpoint / "optimizer.safetensors"), extra.pop("optimizer", {})
        if others.pop("class", "AdamW") == type(unwrapped(optimizer)).__name__:
            restore_optimizer(optimizer, tensors, others)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise UsageError(
            f"the checkpoint {checkpoint} cannot be read: {error}",
            hint="Remove it: the run then resumes from the one before.",
        ) from None
    return step, states, extra


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, None if there is none."""
    return found[-1] if (found := list_all(folder)) else None


def list_all(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def prune(folder: Path, keep: int, *, milestones: int = 0) -> None:
    """Remove all but the newest `keep` checkpoints and those of every `milestones` steps (0: none)."""
    for old in list_all(folder)[:-keep]:
        if not milestones or step_of(old) % milestones:
            shutil.rmtree(old)


def sweep(folder: Path) -> list[Path]:
    """Remove the checkpoints and results in a folder that a killed process left half-written; what they were.

    For the process that writes them, before it writes any: another's under way would be removed as well.
    """
    found = [path for path in folder.glob(".*") if _HALF_WRITTEN.fullmatch(path.name)]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return sorted(found)


def step_of(checkpoint: Path) -> int:
    """The steps a checkpoint has done, by its name."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found
    return int(found[1])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, other values) of an optimizer's state by name: "3.exp_avg" is of the fourth parameter.

    "group.0.d" is of the first group: what the optimizer keeps there for itself, not what it was made with.
    """
    whole = optimizer.state_dict()
    leaves = dict(_leaves(whole["state"]))
    for i, group in enumerate(whole["param_groups"]):
        kept = {name: value for name, value in group.items() if name not in _settings(optimizer)}
        leaves |= dict(_leaves(kept, f"group.{i}."))
    tensors = {name: value for name, value in leaves.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in leaves.items() if name not in tensors}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], others: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` gave."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for path, value in {**tensors, **others}.items():
        first, *keys = path.split(".")
        if first == "group":
            whole["param_groups"][int(keys[0])][keys[1]] = value
            continue
        place = whole["state"].setdefault(int(first), {})
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = _laid_out(value, parameters[int(first)]) if isinstance(value, Tensor) else value
    optimizer.load_state_dict(whole)
    page(optimizer)


def _check_hashes(checkpoint: Path, hashes: Mapping[str, str], record: Mapping[str, Any]) -> None:
    """ValueError where a file, or the rest of state.json, is not what was written."""
    for name, written in hashes.items():
        if written != (json_hash(record) if name == _STATE else file_hash(checkpoint / name)):
            raise ValueError(f"{name} has changed since it was written (by its SHA-256)")


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names in a group that come from the recipe, or are the parameters themselves."""
    return {"params", *inspect.signature(type(unwrapped(optimizer)).__init__).parameters}


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """The value with the strides of its parameter, which kernels of optimizers count on (channels_last)."""
    if value.shape != parameter.shape:
        return value
    if (part := part_of(value, parameter)) is not value:
        return part
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
