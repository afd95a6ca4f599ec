"""Checkpoints: a folder per step, complete or not there at all. Tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdd_cli.errors import UsageError
from tdd_cli.files import replacing

_NAME = re.compile(r"step-(\d+)")


def save(
    folder: Path,
    step: int,
    states: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    extra: dict[str, object],
) -> Path:
    """Write folder/step-N, beside first and then renamed.

    states  of the student, and of its average ("ema") where there is one: a file each
    extra   JSON: the gradient scaler's state
    """
    final = folder / f"step-{step:06d}"
    with replacing(final) as beside:
        beside.mkdir()
        for name, state in states.items():
            save_file(_plain(state), beside / f"{name}.safetensors")
        save_file(_plain(optimizer_tensors(optimizer)), beside / "optimizer.safetensors")
        (beside / "state.json").write_text(json.dumps({"step": step, **extra}))
    return final


def load(
    checkpoint: Path, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, object]]:
    """(steps done, states, extra) of a checkpoint, as given to `save`; the optimizer's state is put back."""
    try:
        extra = json.loads((checkpoint / "state.json").read_text())
        states = {"student": load_file(checkpoint / "student.safetensors")}
        if (average := checkpoint / "ema.safetensors").exists():
            states["ema"] = load_file(average)
        restore_optimizer(optimizer, load_file(checkpoint / "optimizer.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"the checkpoint {checkpoint} cannot be read: {error}",
            hint="Remove it: the run then resumes from the one before.",
        ) from None
    return int(extra.pop("step")), states, extra


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


def step_of(checkpoint: Path) -> int:
    """The steps a checkpoint has done, by its name."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found
    return int(found[1])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: "3.exp_avg" belongs to the fourth parameter."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        whole["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(whole)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
