"""How fast earlier runs went, to foresee how long one like them will take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tdd_cli.errors import TddError
from tdd_cli.recipe import Recipe
from tdd_cli.run import RUNS, runs
from tdd_cli.training.precision import precision
from tdd_cli.training.resume import manifest

DECIDES = {
    "model": ("family", "path", "config"),
    "data": ("resolution", "max_aspect", "cache", "workers"),
    "target": ("rule",),
    "student": ("kind", "rank", "merge"),
    "loss": ("kind",),
    "train": (
        "global_batch", "optimizer", "drop_text", "compile", "channels_last", "gradient_checkpointing"
    ),
}  # fmt: skip
"""The keys that how fast a run goes depends on, beside those that `pace` looks at more closely."""


@dataclass(frozen=True)
class Rate:
    """How fast a run went."""

    pictures: float  # a second, over all processes; the median of its log
    run: Path


def measured_rate(recipe: Recipe, root: Path = RUNS, *, processes: int = 1) -> Rate | None:
    """The rate of the newest run here that went as this one would; None where there is none."""
    wanted, device = pace(recipe, processes), device_name(likely_device())
    for run in runs(root):
        known = manifest(run)
        try:
            same = pace(run.load_recipe(), known.get("processes", 1)) == wanted
        except (OSError, ValueError, AttributeError, TddError):  # of another version, perhaps
            continue
        if same and known.get("device", device) == device:
            rates = [record["images_per_s"] for record in run.records() if record.get("images_per_s")]
            if rates:
                return Rate(float(median(rates)), run.folder)
    return None


def pace(recipe: Recipe, processes: int) -> dict[str, Any]:
    """What decides how fast a run goes; neither its length nor its seed, nor how its student is sampled."""
    sections = recipe.model_dump()
    keys = {f"{name}.{key}": sections[name].get(key) for name, some in DECIDES.items() for key in some}
    return keys | {
        "processes": processes,
        "device_batch": forward_batch(recipe, processes),
        "precision": precision(recipe.train.precision),
        "guided": recipe.teacher.guidance != 1,
        "averaged": recipe.train.ema is not None,
    }


def forward_batch(recipe: Recipe, processes: int) -> int:
    """Samples in one forward pass on one device."""
    share = -(-recipe.train.global_batch // processes)
    return min(recipe.train.device_batch or share, share)


def device_name(kind: str) -> str:
    """A kind of device in words: which GPU, or the kind itself."""
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def likely_device(environment: Mapping[str, str] = os.environ) -> str:
    """The kind of device that accelerate will choose."""
    found = torch.accelerator.current_accelerator(check_available=True)
    asked_for_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return "cpu" if found is None or asked_for_cpu else found.type
