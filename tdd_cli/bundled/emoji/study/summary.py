"""Means and spreads of figures over training seeds, and which is better."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tdd_cli.bundled.emoji.study.plan import own_sampler
from tdd_cli.bundled.emoji.study.rows import TEACHER, Row, seedless
from tdd_cli.evaluation.metrics import COLUMNS

OWN = ("guidance_mode", "eta", "schedule", "clip_x0")  # settings that are a run's own unless said otherwise


@dataclass(frozen=True)
class Mean:
    """A figure over seeds."""

    value: float
    spread: float  # standard deviation; 0 of a single seed
    seeds: int

    def __str__(self) -> str:
        digits = 3 if abs(self.value) < 1 else 2
        spread = f" ± {self.spread:.{digits}f}" if self.seeds > 1 else ""
        return f"{self.value:.{digits}f}{spread}"


def mean_of(rows: Sequence[Row], figure: str, name: str, **settings: Any) -> Mean | None:
    """A run's figure over its seeds at these settings, others as its own; None where it was not measured."""
    own = own_sampler(name)
    wanted = {**{key: getattr(own, key) for key in OWN}, **settings}
    found = [
        row.figures[figure]
        for row in rows
        if seedless(row.point.run) == name
        and figure in row.figures
        and all(getattr(row.point, key) == value for key, value in wanted.items())
    ]
    if not found:
        return None
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return Mean(statistics.fmean(found), spread, len(found))


def teacher_row(rows: Sequence[Row]) -> Row | None:
    """The teacher's row, where it was measured."""
    return next((row for row in rows if row.point.run == TEACHER), None)


def best_guidance(
    rows: Sequence[Row], figure: str, name: str, steps: Sequence[int], **settings: Any
) -> float | None:
    """The scale with a run's best mean figure over some numbers of steps; None where none was measured."""
    sign = 1 if COLUMNS[figure].better == "lower" else -1
    scales = {row.point.guidance for row in rows if seedless(row.point.run) == name}
    means: dict[float, float] = {}
    for scale in scales:
        found = [mean_of(rows, figure, name, steps=k, guidance=scale, **settings) for k in steps]
        known = [mean.value for mean in found if mean]
        if len(known) == len(steps):
            means[scale] = statistics.fmean(known)
    return min(means, key=lambda scale: sign * means[scale]) if means else None


def ahead(ours: Mean, other: Mean, figure: str) -> bool:
    """Whether a mean is better than another by more than both spreads together."""
    sign = 1 if COLUMNS[figure].better == "lower" else -1
    return sign * (other.value - ours.value) > ours.spread + other.spread
