"""A run folder: what was asked, with what, what happened, and the result.

recipe.yaml  manifest.json  log.jsonl  inference.json  adapter.safetensors  checkpoints/  samples/
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from tdd_cli import __version__
from tdd_cli.errors import UsageError
from tdd_cli.files import replacing, write_atomic
from tdd_cli.recipe import PcmTarget, Recipe, Section, TddTarget, dump_recipe, load_recipe

__all__ = ["Inference", "Run", "latest_run", "recipe_hash", "replacing", "runs", "versions", "write_atomic"]

RUNS = Path("runs")
Style = Annotated[tuple[str, float], Field(strict=False)]
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "torchmetrics",
    "safetensors",
    "numpy",
)


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


class Inference(Section):
    """How a student is to be sampled; saved beside its weights and read back by `tdd sample`."""

    format: Literal[1] = Field(default=1, description="version of this file's layout")
    family: str = Field(min_length=1, description="the architecture")
    model: str = Field(min_length=1, description="the base model, as in the recipe")
    config: str | None = Field(default=None, description="folder with the base model's configuration")
    styles: Annotated[tuple[Style, ...], Field(strict=False)] = Field(
        default=(),
        description="(file, strength) of adapters that made the teacher, to be put on the base model",
    )
    student: Literal["lora", "full"] = Field(default="lora", description="what was trained")
    method: str = Field(min_length=1, description="the target rule")
    teacher_grid: int = Field(ge=2, le=1000, description="points of the solver grid the steps lie on")
    k_min: int = Field(ge=1, le=1000, description="fewest sampling steps trained for")
    k_max: int = Field(ge=1, le=1000, description="most sampling steps trained for")
    resolution: int | None = Field(
        default=None,
        ge=8,
        multiple_of=8,
        description="side of the training pictures, pixels (null: the model's own)",
    )
    steps: int = Field(ge=1, le=1000, description="sampling steps")
    guidance: float = Field(ge=0, description="guidance scale, 1 = off")
    eta: float = Field(ge=0, le=1, description="share by which a step undershoots before noise is added")
    schedule: Literal["equal", "early"] = Field(description="equal steps, or extra ones where the noise is")
    clip_x0: int = Field(ge=0, le=1000, description="first steps whose predicted latent is clipped")
    clip_low: float = Field(default=1.0, gt=0, description="how far clean latents reach")
    clip_high: float = Field(default=1.0, gt=0, description="where a predicted latent is cut at the latest")
    clip_ratio: float = Field(default=0.995, gt=0, le=1, description="quantile of a latent that sets its cut")
    guidance_mode: Literal["cfg", "post"] = Field(
        default="cfg", description="post: guidance with the teacher's null, for students without their own"
    )
    teacher_guidance: float | None = Field(
        default=None, ge=1, le=100, description="scale the student was distilled at (null: unknown)"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Inference:
        if not self.k_min <= self.k_max <= self.teacher_grid:
            raise ValueError("k_min <= k_max <= teacher_grid does not hold")
        return self

    @classmethod
    def of(cls, recipe: Recipe) -> Inference:
        """The settings a recipe's student is made for."""
        k_min, k_max = _trained_steps(recipe)
        own_null = recipe.train.drop_text > 0  # the student saw empty prompts
        sample = recipe.sample.model_dump()
        if not own_null:  # post-tuned scales count from none, not from the distilled one
            sample["guidance"] *= recipe.teacher.guidance
        return cls(
            family=recipe.model.family,
            model=recipe.model.path,
            config=recipe.model.config,
            styles=recipe.model.styles,
            student=recipe.student.kind,
            method=recipe.target.rule,
            teacher_grid=recipe.teacher.grid,
            k_min=k_min,
            k_max=k_max,
            resolution=recipe.data.resolution,
            guidance_mode="cfg" if own_null else "post",
            teacher_guidance=recipe.teacher.guidance,
            **sample,
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the training pictures; None: the model's own."""
        return None if self.resolution is None else (self.resolution, self.resolution)

    def save(self, path: Path) -> None:
        write_atomic(path, json.dumps(self.model_dump(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Inference:
        """The settings in `path`; UsageError where they are missing or unusable."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            hint = "The run has no result yet: finish it with tdd distill --resume."
            raise UsageError(f"{path} does not exist", hint=hint) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
        except ValidationError as error:
            where = [".".join(map(str, one["loc"])) or "the file" for one in error.errors()]
            text = "; ".join(f"{w}: {one['msg']}" for w, one in zip(where, error.errors(), strict=True))
            raise UsageError(
                f"{path}: {text}", hint="The file is written by tdd distill; restore it."
            ) from None


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


def versions() -> dict[str, str | None]:
    """The versions of Python, tdd and the packages results depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "tdd-cli": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


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
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _git_commit() -> str | None:
    """The commit of the checkout the package runs from ("-dirty" with changes), None outside one."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _trained_steps(recipe: Recipe) -> tuple[int, int]:
    """Fewest and most sampling steps a recipe trains for; rules that aim at none are sampled like TDD."""
    target = recipe.target
    if isinstance(target, PcmTarget):
        return target.phases, target.phases
    aims = target if isinstance(target, TddTarget) else TddTarget(rule="tdd")
    return min(aims.k_min, recipe.teacher.grid), min(aims.k_max, recipe.teacher.grid)


def _started(run: Run) -> str:
    try:
        return str(json.loads(run.manifest.read_text(encoding="utf-8")).get("started", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _suggestion() -> str:
    newest = latest_run()
    return f"The newest run here is {newest.folder}." if newest else "tdd distill makes one, under runs/."
