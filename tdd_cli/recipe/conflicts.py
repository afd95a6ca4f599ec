"""Values of a recipe that are fine alone and do not fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from tdd_cli.data.filters import parse as parse_thresholds
from tdd_cli.recipe.data import Data
from tdd_cli.recipe.method import LoraStudent, PcmTarget, TddTarget
from tdd_cli.recipe.train import Sample, Train

if TYPE_CHECKING:
    from tdd_cli.recipe.schema import Recipe

TRAINING_TIMESTEPS = 1000


def longest_jump(grid: int, k: int) -> int:
    """The longest jump of k equal steps on the grid, timesteps: core.times.largest_gap without torch."""
    stride = TRAINING_TIMESTEPS // grid
    visited = [(grid - i * grid // k) * stride - 1 for i in range(k)] + [0]
    return max(upper - lower for upper, lower in pairwise(visited))


def conflicts_of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for each value that is fine alone and does not fit another."""
    grid, target, train, sample = recipe.teacher.grid, recipe.target, recipe.train, recipe.sample
    yield from _data_conflicts(recipe.data)
    if not all(recipe.model.loras):
        yield "model.loras", "must be FILE or FILE:SCALE each, got an empty one"
    if TRAINING_TIMESTEPS % grid:
        yield "teacher.grid", f"must divide {TRAINING_TIMESTEPS} (50, 100, 125, 200, 250, ...), got {grid}"
    elif isinstance(target, TddTarget):
        yield from _tdd_conflicts(target, grid, sample)
    elif isinstance(target, PcmTarget) and target.phases > grid:
        yield "target.phases", f"must be at most teacher.grid ({grid}), got {target.phases}"
    if sample.steps > grid:
        yield "sample.steps", f"must be at most teacher.grid ({grid}), got {sample.steps}"
    if sample.clip_x0 > sample.steps:
        yield "sample.clip_x0", f"must be at most sample.steps ({sample.steps}), got {sample.clip_x0}"
    if sample.clip_high < sample.clip_low:
        yield (
            "sample.clip_high",
            f"must be at least sample.clip_low ({sample.clip_low}), got {sample.clip_high}",
        )
    yield from _train_conflicts(train)
    if train.compile and isinstance(recipe.student, LoraStudent) and recipe.student.merge:
        yield (
            "train.compile",
            "needs student.merge=false, got true",
        )


def _train_conflicts(train: Train) -> Iterator[tuple[str, str]]:
    if train.device_batch is not None and train.global_batch % train.device_batch:
        yield (
            "train.device_batch",
            f"must divide global_batch ({train.global_batch}), got {train.device_batch}",
        )
    if train.warmup >= train.steps:
        yield "train.warmup", f"must be less than train.steps ({train.steps}), got {train.warmup}"
    if train.optimizer == "prodigy" and train.lr < 0.1:
        yield (
            "train.lr",
            f"must be 0.1 to 1 with prodigy, a factor on the rate it finds and usually 1, got {train.lr}",
        )
    if train.optimizer != "prodigy" and train.lr == 1:
        yield "train.lr", f"must be < 1 with {train.optimizer}, got {train.lr}"


def _data_conflicts(data: Data) -> Iterator[tuple[str, str]]:
    on_disk = data.cache in ("latents", "all")
    if (data.source is None) == (data.prompts is None):
        both = "both given" if data.source else "neither given"
        yield "data.source", f"or data.prompts must be given, one of the two, got {both}"
    if data.prompts and not on_disk:
        yield "data.cache", f"must be latents or all with data.prompts, got {data.cache!r}"
    if data.prompts and data.flip:
        yield "data.flip", "must be false with data.prompts: the teacher draws no mirror images, got true"
    if data.max_aspect > 1 and (data.prompts or not on_disk):
        yield (
            "data.max_aspect",
            f"above 1 needs data.source, and data.cache latents or all, got {data.max_aspect}",
        )
    try:
        parse_thresholds(data.where)
    except ValueError as error:
        yield "data.where", str(error)


def _tdd_conflicts(target: TddTarget, grid: int, sample: Sample) -> Iterator[tuple[str, str]]:
    if not target.k_min <= target.k_max <= grid:
        yield (
            "target.k_max",
            f"must be from k_min ({target.k_min}) to teacher.grid ({grid}), got {target.k_max}",
        )
        return
    needed = longest_jump(grid, target.k_min)
    if target.reach is not None and target.candidates != "window":
        yield "target.reach", f"must be null with candidates {target.candidates}, got {target.reach}"
    elif target.reach is not None and target.reach < needed:
        yield (
            "target.reach",
            f"must be at least {needed}, the longest of {target.k_min} steps, got {target.reach}",
        )
    if sample.schedule == "early" and not target.k_min <= sample.steps <= target.k_max:
        yield "sample.steps", f"must be {target.k_min}..{target.k_max} for schedule early, got {sample.steps}"
