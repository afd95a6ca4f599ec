"""A run folder: what was asked, with what, what happened, and the result.

recipe.yaml  manifest.json  log.jsonl  inference.json  adapter.safetensors  checkpoints/  samples/
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tdd_cli.errors import UsageError
from tdd_cli.files import write_atomic
from tdd_cli.recipe import Recipe, dump_recipe, load_recipe
from tdd_cli.versions import git_commit, versions

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """The paths of one run folder."""

    folder: Path

    @classmethod
    def create(
        cls,
        folder: Path | None,
        recipe: Recipe,
        *,
        name: str,
        root: Path = RUNS,
        command: Sequence[str] | None = None,
    ) -> Run:
        """A new run: the folder (default: root/name-date-time), the resolved recipe and the manifest in it.

        Raises UsageError where the folder already holds something.
        """
        started = datetime.now().astimezone()
        run = cls(_make_empty(folder, root / f"{name}-{started:%Y%m%d-%H%M%S}"))
        write_atomic(run.recipe, dump_recipe(recipe))
        manifest = _manifest(recipe, name, started, sys.argv if command is None else command)
        write_atomic(run.manifest, json.dumps(manifest, indent=2) + "\n")
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run; UsageError where `folder` is none."""
        run = cls(Path(folder))
        if not run.folder.is_dir():
            problem = "is a file, not a run folder" if run.folder.exists() else "does not exist"
            raise UsageError(f"{run.folder} {problem}", hint=_suggestion())
        missing = [path.name for path in (run.recipe, run.manifest) if not path.is_file()]
        if missing:
            raise UsageError(
                f"{run.folder} is not a run: it has no {' and no '.join(missing)}", hint=_suggestion()
            )
        return run

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def inference(self) -> Path:
        return self.folder / "inference.json"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def finished(self) -> bool:
        """Whether the run has a result to sample from."""
        return self.inference.is_file()

    def load_recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return load_recipe(self.recipe)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to log.jsonl."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of log.jsonl; a last line that an interruption cut short is left out."""
        if self.log_file.is_file():
            for line in self.log_file.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue


def runs(root: Path = RUNS) -> list[Run]:
    """All runs under `root`, the newest first."""
    found = [
        Run(path.parent) for path in root.glob("*/manifest.json") if path.with_name("recipe.yaml").is_file()
    ]
    return sorted(found, key=lambda run: (_started(run), run.folder.name), reverse=True)


def latest_run(root: Path = RUNS, *, finished: bool = False) -> Run | None:
    """The newest run under `root`, or the newest that has a result."""
    return next((run for run in runs(root) if run.finished or not finished), None)


def recipe_hash(recipe: Recipe) -> str:
    """A hash of everything a recipe says, 64 hex digits."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()


def _make_empty(folder: Path | None, default: Path) -> Path:
    """Create the folder asked for, or the default with a number added where two runs start in one second."""
    if folder is None:
        folder, number = default, 2
        while folder.exists():
            folder, number = default.with_name(f"{default.name}-{number}"), number + 1
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = f"Give another --out, or go on with it: tdd distill --resume {folder}"
        raise UsageError(f"{folder} already exists and is not an empty folder", hint=hint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be created: {error.strerror}") from None
    return folder


def _manifest(recipe: Recipe, name: str, started: datetime, command: Sequence[str]) -> dict[str, Any]:
    return {
        "format": 1,
        "name": name,
        "started": started.isoformat(timespec="seconds"),
        "command": list(command),
        "recipe_sha256": recipe_hash(recipe),
        "seed": recipe.train.seed,
        "versions": versions(),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _started(run: Run) -> str:
    try:
        return str(json.loads(run.manifest.read_text(encoding="utf-8")).get("started", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _suggestion() -> str:
    newest = latest_run()
    return f"The newest run here is {newest.folder}." if newest else "tdd distill makes one, under runs/."
