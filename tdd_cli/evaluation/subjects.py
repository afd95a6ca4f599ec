"""Whose pictures are measured: a model with its sampling settings, a folder of pictures, or the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from tdd_cli.core.guidance import Network
from tdd_cli.errors import DataError
from tdd_cli.evaluation.coco import Files
from tdd_cli.evaluation.identity import contents_hash, fingerprint
from tdd_cli.evaluation.protocol import Pictures, Rules
from tdd_cli.families import family_class
from tdd_cli.families.base import Family
from tdd_cli.families.layout import weights_variant
from tdd_cli.families.loading import bundled, find_model
from tdd_cli.families.lora_file import read_metadata
from tdd_cli.generate import Sampling, generate
from tdd_cli.inference import Inference
from tdd_cli.student import load, load_with_teacher, precision, whole

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Shot:
    """One picture of a subject."""

    row: int  # the caption's number
    image: Image.Image
    seconds: float = 0.0  # to draw it


class Subject(Protocol):
    """Pictures for the rows of a protocol."""

    @property
    def label(self) -> str:
        """Its name in tables."""

    def record(self) -> dict[str, Any]:
        """What determines its pictures, for results and for finding them again."""

    def shots(self, rows: range) -> Iterator[Shot]:
        """The pictures of some rows, in order; what cannot be read is left out."""


class Model:
    """A model, perhaps with a student's weights; loaded when first drawn with."""

    def __init__(self, name: str, inference: Inference, weights: Path | None) -> None:
        self.name, self.inference, self.weights = name, inference, weights

    def check(self) -> None:
        """Raises what loading would, of files that are missing or of another kind; downloads a hub model."""
        how, family = self.inference, family_class(self.inference.family)
        find_model(how.model, how.family, family.parts, dtype=precision())
        if self.weights and how.student == "lora":
            read_metadata(self.weights)
        elif self.weights:
            weights_variant(self.weights, precision())

    @cached_property
    def fused(self) -> tuple[Family, None]:
        """The loaded model, its adapter merged into it."""
        return load(self.inference, self.weights), None

    @cached_property
    def apart(self) -> tuple[Family, Network]:
        """The loaded model and its teacher, for guidance with the teacher's null."""
        return load_with_teacher(whole(self.inference, self.weights))

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """What tells this model from others."""
        base = base_folder(self.inference.model)
        return {
            "model": self.inference.model,
            "model_files": fingerprint(base) if base else None,
            "weights": fingerprint(self.weights) if self.weights else None,
        }

    def release(self) -> None:
        """Forget the loaded model, and give its memory back."""
        for loaded in ("fused", "apart"):
            self.__dict__.pop(loaded, None)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a model draws for a protocol's captions, each from its own seed."""

    model: Model
    sampling: Sampling
    rules: Rules
    batch: int = 16

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def title(self) -> str:
        """The name with steps and guidance, for progress."""
        return f"{self.label}, {self.sampling.steps} steps, guidance {self.sampling.guidance}"

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) the student was trained at, None for the model's own."""
        return self.model.inference.size

    def record(self) -> dict[str, Any]:
        """Model, weights and sampling settings."""
        return {
            "kind": "model",
            **self.model.identity,
            "method": self.model.inference.method,
            "sampling": asdict(self.sampling),
            "size": self.size,
        }

    def shots(self, rows: range) -> Iterator[Shot]:
        """Draws the rows' captions."""
        prompts = [self.rules.set.captions[row] for row in rows]
        seeds = [self.rules.seed + row for row in rows]
        family, teacher = self.model.apart if self.sampling.guidance_mode == "post" else self.model.fused
        found = generate(
            family, prompts, seeds, self.sampling, size=self.size, batch=self.batch, teacher=teacher
        )
        for row, picture in zip(rows, found, strict=True):
            yield Shot(row, picture.image, picture.seconds)


@dataclass(frozen=True, eq=False)
class Stored:
    """Pictures that exist already: a folder of somebody's, or a set's real ones."""

    label: str
    pictures: Pictures
    sha256: str

    def record(self) -> dict[str, Any]:
        """What identifies the pictures."""
        return {"kind": "pictures", "pictures_sha256": self.sha256}

    def shots(self, rows: range) -> Iterator[Shot]:
        """The readable ones of some rows."""
        for row in rows:
            try:
                yield Shot(row, self.pictures.picture(row))
            except DataError:
                continue


def image_folder(folder: Path) -> Stored:
    """The pictures of a folder in the order of their names: the n-th is of the protocol's n-th caption."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", hint="--images takes a folder of pictures.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no pictures", hint=f"It needs {', '.join(sorted(SUFFIXES))} files.")
    return Stored(folder.resolve().name, Files(paths), contents_hash(paths, folder))


def base_folder(model: str) -> Path | None:
    """Where a model's files are, if they are on this machine by path."""
    if model.startswith("bundled:"):
        return bundled(model)
    path = Path(model).expanduser()
    return path if path.exists() else None
