"""What a picture's file remembers of its making, and making it again from that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tdd_cli import __version__
from tdd_cli.errors import DataError, UsageError
from tdd_cli.hashes import file_hash
from tdd_cli.inference import Inference
from tdd_cli.pictures import read_settings
from tdd_cli.sampling import Sampling
from tdd_cli.student import BUNDLED, Adapter, Source, bundled

FORMAT = 1


@dataclass(frozen=True)
class Given:
    """The pictures that a drawing starts from, or is led by, as files."""

    init: Path | None = None
    mask: Path | None = None
    controls: tuple[tuple[str, Path, float], ...] = ()  # kind, picture, strength


@dataclass(frozen=True)
class Making:
    """All that a picture depends on besides its prompt and seed."""

    source: Source
    sampling: Sampling
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the model's own
    given: Given = Given()

    def describe(self) -> dict[str, Any]:
        """As JSON, with a checksum of every file; made once for all pictures."""
        source, given = self.source, self.given
        weights = [] if source.weights is None else [_file(source.weights, scale=source.scale)]
        return {
            "format": FORMAT,
            "tdd": __version__,
            **asdict(self.sampling),
            "size": self.size,
            "inference": source.inference.model_dump(),
            "weights": weights,
            "styles": [_file(style.path, scale=style.scale) for style in source.styles],
            "init": None if given.init is None else _file(given.init),
            "mask": None if given.mask is None else _file(given.mask),
            "controls": [_file(path, kind=kind, scale=scale) for kind, path, scale in given.controls],
        }


@dataclass(frozen=True)
class Memory:
    """What `read` found in a picture's file."""

    prompt: str
    seed: int
    making: Making


def read(path: Path, source: Source | None = None) -> Memory:
    """The prompt, seed and making of a picture of ours, its files still as they were.

    `source` takes the place of what drew it. Raises DataError for a file that says nothing, UsageError where
    what it was made with is gone or changed.
    """
    found = read_settings(path)
    if found is None or found.get("format") != FORMAT:
        raise DataError(
            f"{path} does not say how it was made", hint="Only pictures of tdd sample do, unless resaved."
        )
    try:
        names = [field.name for field in fields(Sampling)]
        settings = {name: _tuple(found[name]) for name in names if name in found}
        given = Given(
            None if found["init"] is None else _unchanged(found["init"]),
            None if found["mask"] is None else _unchanged(found["mask"]),
            tuple((entry["kind"], _unchanged(entry), entry["scale"]) for entry in found["controls"]),
        )
        making = Making(source or _source(found), Sampling(**settings), _tuple(found["size"]), given)
        return Memory(found["prompt"], found["seed"], making)
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{path}: what it says of its making is incomplete ({error})") from None


def _source(found: Mapping[str, Any]) -> Source:
    """What drew a picture, unchanged."""
    student = next((_adapter(entry) for entry in found["weights"]), None)
    return Source(
        Inference.model_validate(found["inference"]),
        None if student is None else student.path,
        1.0 if student is None else student.scale,
        tuple(_adapter(entry) for entry in found["styles"]),
    )


def _file(path: Path, **more: Any) -> dict[str, Any]:
    """A file's path, checksum and what else is said of it; the bundled student by its name."""
    name = BUNDLED if path == bundled()[1] else str(path)
    return {"path": name, "sha256": _checksum(path), **more}


def _adapter(entry: Mapping[str, Any]) -> Adapter:
    return Adapter(_unchanged(entry), entry["scale"])


def _unchanged(entry: Mapping[str, Any]) -> Path:
    """The path of an entry whose file is still the same; UsageError otherwise."""
    path = bundled()[1] if entry["path"] == BUNDLED else Path(entry["path"])
    if not path.exists():
        raise UsageError(f"{path} is gone", hint="The picture was made with it; put it back.")
    if _checksum(path) != entry["sha256"]:
        raise UsageError(
            f"{path} has changed since the picture was made",
            hint="It cannot be drawn as it was; beside --like, --run or --lora say what draws instead.",
        )
    return path


def _checksum(path: Path) -> str:
    """SHA-256 of a file, or of the names and sizes in a folder (a whole model takes too long to read)."""
    if path.is_dir():
        listing = sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file())
        return hashlib.sha256(repr(listing).encode()).hexdigest()
    return file_hash(path)


def _tuple(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(value) if isinstance(value, list) else value
