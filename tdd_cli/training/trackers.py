"""Experiment trackers beside log.jsonl, through accelerate. They get what the log gets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

from tdd_cli.recipe import Recipe
from tdd_cli.run import Run
from tdd_cli.training.extras import require
from tdd_cli.training.resume import leaves

PROJECT = "tdd"


class Tracker(Protocol):
    """What is used of accelerate's trackers."""

    def start(self) -> None:
        """Open it."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Settings by name, each text or a number."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers of a step."""

    def finish(self) -> None:
        """Close it."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingComponent for the first whose package is not installed."""
    for name in names:
        require(name, extra="track", setting=f"train.trackers={name}")


@contextmanager
def tracking(names: Sequence[str], run: Run, recipe: Recipe) -> Iterator[list[Tracker]]:
    """The trackers of those names, opened and told the recipe; a resumed run goes on in its own."""
    settings = {key: _plain(value) for key, value in leaves(recipe.model_dump())}
    with ExitStack() as at_the_end:
        opened: list[Tracker] = []
        for name in names:
            tracker = TRACKERS[name](run)
            tracker.start()
            at_the_end.callback(tracker.finish)
            tracker.store_init_configuration(settings)
            opened.append(tracker)
        yield opened


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record of log.jsonl a tracker can draw as a curve."""
    return {
        key: value
        for key, value in record.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step"
    }


def _tensorboard(run: Run) -> Tracker:
    made: Tracker = TensorBoardTracker("tensorboard", run.folder)  # a folder of that name in the run's
    return made


def _wandb(run: Run) -> Tracker:
    made: Tracker = WandBTracker(
        PROJECT,
        name=run.folder.name,
        id=_identity(run),
        resume="allow",
        dir=str(run.folder),
        mode=None if _known_to_wandb() else "offline",
    )
    return made


def _trackio(run: Run) -> Tracker:
    made: Tracker = TrackioTracker(PROJECT, name=f"{run.folder.name}-{_identity(run)}", resume="allow")
    return made


def _identity(run: Run) -> str:
    """The same for a run that is resumed, another for the next one in a folder of the same name."""
    started = json.loads(run.manifest.read_text("utf-8"))["started"]
    return sha256(f"{run.folder.name} {started}".encode()).hexdigest()[:12]


def _known_to_wandb() -> bool:
    """Whether there is a key for wandb, or a word on what to do without: it would ask for one, and wait."""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    told = {"WANDB_API_KEY", "WANDB_MODE"} & os.environ.keys()
    return bool(told) or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace"))


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value)


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
