"""Where pictures and captions come from: the Source protocol, and which source a name means."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from PIL import Image

from tdd_cli.data.captions import Labels
from tdd_cli.data.filters import Threshold
from tdd_cli.data.remote import is_remote
from tdd_cli.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it."""

    image: Image.Image  # RGB
    labels: Labels


class Piece(NamedTuple):
    """Samples of a file that are at hand together: a row group, or all of one that can be read anywhere."""

    size: int  # samples
    filtered: int = 0  # others that were found to fail data.where


class Source(Protocol):
    """Pictures with captions, in one or many files; within a piece of a file any of them can be asked for."""

    name: str  # for messages
    units: int  # files that are read one after another; a table counts as one
    rule: str  # of CAPTIONS, by which a caption is drawn from a sample's labels
    left_out: dict[str, int]  # samples that were left out when it was opened, by reason

    def pieces(self, unit: int) -> Sequence[Piece]:
        """The pieces of a file in their order; it may be fetched and looked through for that."""

    def read(self, unit: int, index: int) -> Sample:
        """A sample of a file, by its place in it; Reject where it cannot be used."""

    def fingerprint(self) -> str:
        """What changes when the data do: 64 hex digits."""


def count(source: Source, unit: int) -> int:
    """How many samples a file has."""
    return sum(piece.size for piece in source.pieces(unit))


@dataclass(frozen=True)
class Columns:
    """Which samples to take, and what of them."""

    image: str = "image"
    caption: str = "text"
    split: str = "train"
    choice: Literal["random", "first"] = "random"  # among several captions
    min_size: int = 0  # of the shorter side, pixels
    where: tuple[Threshold, ...] = ()


def open_source(
    source: str,
    columns: Columns | None = None,
    *,
    streaming: bool = False,
    folder: Path = Path("cache"),
    room: float = 50e9,
) -> Source:
    """The pictures that a recipe's data.source names. DataError if there are none, or a column is missing.

    streaming  read parquet files and hub data sets where they are, without converting them first
    folder     where copies of what is far away or packed, and lists of what is in them, are kept
    room       bytes that copies of what is far away may take
    """
    from tdd_cli.data import hub, shards, streams, tables
    from tdd_cli.data.paths import check_unpacked, here

    columns = columns or Columns()
    tars = partial(shards.TarSource, columns=columns, folder=folder, room=room)
    parquet = partial(streams.ParquetSource, columns=columns, folder=folder, room=room)
    if source == "bundled:emoji":
        return tables.bundled_emoji()
    path = Path(source).expanduser()
    if path.is_dir():
        inside = [name for name in ("*.tar", "*.parquet") if any(path.glob(name))]
        if not inside:
            return tables.folder(path, columns)
        source = str(path / inside[0])
    check_unpacked(source)
    if shards.is_tar(source):
        return tars(source, here(source))
    if source.partition("?")[0].endswith(".parquet"):
        if streaming:
            return parquet(source, here(source))
        return tables.parquet(source, columns)
    if hub.is_hub(source) and not path.exists():
        if not streaming:
            return tables.hub(source, columns)
        files = hub.hub_files(source, columns.split)
        return tars(source, files) if shards.is_tar(files[0]) else parquet(source, files)
    raise DataError(
        f"data.source {source!r} is neither a folder, parquet files, tar files, nor a hub id owner/name",
        hint=f"Set it: --set data.source=FOLDER. {LAYOUT}",
    )


def check_columns(source: str, columns: Columns, there: Sequence[str]) -> None:
    """DataError where one of the columns wanted is not among those there."""
    wanted = {"image_column": columns.image, "caption_column": columns.caption}
    wanted |= {f"where[{i}]": threshold.column for i, threshold in enumerate(columns.where)}
    for key, column in wanted.items():
        if column not in there:
            raise DataError(
                f"{source} has no column {column!r}; it has {', '.join(there)}",
                hint=f"Set data.{key} to one of them. {LAYOUT}",
            )


def fingerprint_of(paths: Sequence[str]) -> str:
    """A hash of the files' names, sizes and times of change, and of addresses as they are.

    Names are below the folder that holds all of them. Quick for millions; rsync and tar keep it.
    """
    local = [os.path.abspath(path) for path in paths if not is_remote(path)]
    remote = [path for path in paths if is_remote(path)]
    root = os.path.commonpath({os.path.dirname(path) for path in local}) if local else ""
    digest = hashlib.sha256()
    for path in local:
        state, name = os.stat(path), path[len(root) :].replace(os.sep, "/").lstrip("/")
        text = f"{name}\0{state.st_size}\0{int(state.st_mtime)}\n"
        digest.update(text.encode("utf-8", "surrogateescape"))
    if not remote:
        return digest.hexdigest()
    return hashlib.sha256("\n".join([digest.hexdigest(), *remote]).encode()).hexdigest()


LAYOUT = (
    "A folder needs pictures and, beside them, a metadata.csv or metadata.jsonl with the columns file_name "
    "and text, or a .txt of the same name for each; parquet files need a picture and a caption column "
    "(data.image_column, data.caption_column); tar files hold 0001.jpg, 0001.txt, 0002.jpg, ..."
)
