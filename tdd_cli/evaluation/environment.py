"""What a figure was measured on: two environments give slightly other pictures, and quite other times."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tdd_cli.evaluation.protocol import record_hash
from tdd_cli.student import fastest, precision
from tdd_cli.versions import versions


@cache
def environment(batch: int | None) -> dict[str, Any]:
    """The record of this one, for pictures drawn `batch` together, or not drawn here at all (None)."""
    device = fastest()
    drawing = {"dtype": str(precision()).removeprefix("torch."), "batch": batch} if batch else {}
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        **drawing,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def environment_key(record: Mapping[str, Any]) -> str:
    """What figures call an environment, 12 hex digits."""
    return record_hash(record)[:12]


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
