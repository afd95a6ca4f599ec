"""Where pictures and captions come from: the Source protocol, and which source a name means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from tdd_cli.data.captions import Labels
from tdd_cli.data.filters import Threshold
from tdd_cli.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it."""

    image: Image.Image  # RGB
    labels: Labels


class Source(Protocol):
    """Pictures with captions, in one or many files; within a file any of them can be asked for."""

    name: str  # for messages
    units: int  # files that are read one after another; a table counts as one
    rule: str  # of CAPTIONS, by which a caption is drawn from a sample's labels
    left_out: dict[str, int]  # samples that were left out when it was opened, by reason

    def count(self, unit: int) -> int:
        """How many samples a file has; it may be fetched and looked through for that."""

    def read(self, unit: int, index: int) -> Sample:
        """One sample; Reject where it cannot be used."""

    def fingerprint(self) -> str:
        """What changes when the data do: 64 hex digits."""


@dataclass(frozen=True)
class Columns:
    """Which samples to take, and what of them."""

    image: str = "image"
    caption: str = "text"
    split: str = "train"
    choice: Literal["random", "first"] = "random"  # among several captions
    min_size: int = 0  # of the shorter side, pixels
    where: tuple[Threshold, ...] = ()


def open_source(source: str, columns: Columns | None = None, *, folder: Path = Path("cache")) -> Source:
    """The pictures that a recipe's data.source names. DataError if there are none, or a column is missing.

    folder  where fetched files and lists of what is in them are kept
    """
    from tdd_cli.data import shards, tables

    columns = columns or Columns()
    if source == "bundled:emoji":
        return tables.bundled_emoji()
    if shards.is_tar(source):
        return shards.TarSource(source, columns, folder=folder)
    path = Path(source).expanduser()
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        if tars:
            return shards.TarSource(str(path / "*.tar"), columns, folder=folder)
        return tables.folder(path, columns)
    if path.name.endswith(".parquet"):
        return tables.parquet(source, columns)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return tables.hub(source, columns)
    raise DataError(
        f"data.source {source!r} is neither a folder, parquet files, tar files, nor a hub id owner/name",
        hint=f"Set it: --set data.source=FOLDER. {LAYOUT}",
    )


def fingerprint_of(files: Iterable[Path]) -> str:
    """A hash of the files' names, sizes and times of change: quick for millions; rsync and tar keep it."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.name}\0{state.st_size}\0{int(state.st_mtime)}\n".encode())
    return digest.hexdigest()


LAYOUT = (
    "A folder needs pictures and, beside them, a metadata.csv or metadata.jsonl with the columns file_name "
    "and text, or a .txt of the same name for each; parquet files need a picture and a caption column "
    "(data.image_column, data.caption_column); tar files hold 0001.jpg, 0001.txt, 0002.jpg, ..."
)
