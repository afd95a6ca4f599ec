"""Means and spreads of figures over training seeds, and which is better."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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


def by_seed(rows: Sequence[Row], figure: str, name: str, **settings: Any) -> dict[str, float]:
    """A run's figure for each seed it was trained with, at these settings, others as its own."""
    own = own_sampler(name)
    wanted = {**{key: getattr(own, key) for key in OWN}, **settings}
    return {
        row.point.run.removeprefix(name): row.figures[figure]
        for row in rows
        if seedless(row.point.run) == name
        and figure in row.figures
        and all(getattr(row.point, key) == value for key, value in wanted.items())
    }


def mean_of(rows: Sequence[Row], figure: str, name: str, **settings: Any) -> Mean | None:
    """A run's figure over its seeds at these settings, others as its own; None where it was not measured."""
    return _mean(list(by_seed(rows, figure, name, **settings).values()))


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Mean | None:
    """Of two runs' figures by seed, seed by seed; None where they have none in common."""
    return _mean([value - theirs[seed] for seed, value in ours.items() if seed in theirs])


def _mean(values: Sequence[float]) -> Mean | None:
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return Mean(statistics.fmean(values), spread, len(values))


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
