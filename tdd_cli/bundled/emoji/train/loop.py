"""What the three trainings share: a time budget, a learning rate that follows it, checkpoints and a log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def cache_folder() -> Path:
    """Where checkpoints go: training lasts hours and may go on in another sitting."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "tdd" / "emoji-train"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def progress(minutes: float, spent: float = 0.0) -> Iterator[tuple[float, float]]:
    """(share of the budget used, minutes used), once a step; earlier sittings used `spent` of the minutes."""
    start = time.monotonic()
    used = torch.tensor([spent])
    while used < minutes:
        yield used.item() / minutes, used.item()
        used = torch.tensor([spent + (time.monotonic() - start) / 60])
        average([used])  # so that all processes stop together


def workers() -> tuple[int, int]:
    """(this process's number, how many there are): one, unless torchrun started several."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return int(os.environ.get("RANK", "0")), count


def average(tensors: list[Tensor]) -> None:
    """Replace every tensor by its mean over the processes."""
    _, count = workers()
    if count == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / count).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def cosine(share: float, step: int, *, warmup: int) -> float:
    """The learning rate's factor: a linear warm-up in steps, then half a cosine over the budget down to 0."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * share))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename: an interrupted save never costs the last good one."""
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(path)


def restore(path: Path) -> dict[str, Any]:
    """A checkpoint of ours; tensors and plain values only."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def log(path: Path, **record: float) -> None:
    """One line of JSON, to the file and to the terminal."""
    line = json.dumps({key: round(value, 5) for key, value in record.items()})
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
