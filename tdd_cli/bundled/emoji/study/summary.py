"""Means and spreads over training seeds, and what was asked of them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tdd_cli.bundled.emoji.study.plan import own_sampler
from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.results import Entry, Result

Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Mean:
    """A figure over seeds."""

    value: float
    spread: float  # standard deviation; 0 of a single seed
    seeds: int

    def __str__(self) -> str:
        digits = 3 if abs(self.value) < 1 else 2
        return (
            f"{self.value:.{digits}f} ± {self.spread:.{digits}f}"
            if self.seeds > 1
            else f"{self.value:.{digits}f}"
        )


def seedless(label: str) -> str:
    """A run's name without its seed."""
    return re.sub(r"-s\d+$", "", label)


def over_seeds(entries: Sequence[Entry], figure: str, **settings: Any) -> dict[str, Mean]:
    """Run name -> mean of a figure over its seeds, at these sampling settings; others as the run's own."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        if entry.baseline or figure not in entry.figures:
            continue
        name = seedless(entry.label)
        wanted = {**own_sampler(name), **settings}
        if all(entry.sampling.get(key) == value for key, value in wanted.items()):
            values.setdefault(name, []).append(entry.figures[figure].value)
    return {
        name: Mean(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0, len(found))
        for name, found in values.items()
    }


def best_guidance(result: Result, figure: str, name: str, steps: Sequence[int]) -> float | None:
    """The scale with a run's best mean figure over some numbers of steps; None where none was measured."""
    sign = 1 if COLUMNS[figure].better == "lower" else -1
    scales = {entry.sampling["guidance"] for entry in result.entries if seedless(entry.label) == name}
    means: dict[float, float] = {}
    for scale in scales:
        found = [over_seeds(result.entries, figure, steps=k, guidance=scale).get(name) for k in steps]
        known = [mean.value for mean in found if mean]
        if len(known) == len(steps):
            means[scale] = statistics.fmean(known)
    return min(means, key=lambda scale: sign * means[scale]) if means else None


def ahead(ours: Mean, other: Mean, figure: str) -> bool:
    """Whether a mean is better than another by more than both spreads together."""
    sign = 1 if COLUMNS[figure].better == "lower" else -1
    return sign * (other.value - ours.value) > ours.spread + other.spread
