"""Sources with a row for each picture, through `datasets`: folders, parquet files, hub ids, bundled:emoji."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Generator

from tdd_cli.data import captions
from tdd_cli.data.captions import Labels
from tdd_cli.data.folders import metadata_files, metadata_rows, named
from tdd_cli.data.hub import asked, from_hub, hub_name
from tdd_cli.data.paths import check_unpacked, here
from tdd_cli.data.pictures import decode, encoded
from tdd_cli.data.rejects import Reject
from tdd_cli.data.sources import LAYOUT, Columns, Piece, Sample, check_columns, fingerprint_of
from tdd_cli.errors import DataError
from tdd_cli.hashes import file_hash

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class TableSource:
    """Rows of a `datasets` table whose picture column is left encoded until a picture is asked for."""

    units = 1

    def __init__(
        self,
        rows: Any,  # datasets.Dataset
        name: str,
        *,
        image_column: str,
        labels_of: Callable[[dict[str, Any], str], Labels],  # (row, where) -> labels; may raise Reject
        rule: str,  # of CAPTIONS
        fingerprint: Callable[[], str],
        min_size: int = 0,
        left_out: dict[str, int] | None = None,
    ) -> None:
        self.rows, self.name, self.rule = rows, name, rule
        self.image_column, self.labels_of, self.min_size = image_column, labels_of, min_size
        self.fingerprint, self.left_out = fingerprint, left_out or {}

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        """The picture of a row, RGB; DataError where it cannot be used."""
        try:
            return self.read(0, index).image
        except Reject as reject:
            raise DataError(str(reject), hint="Remove it or replace it.") from None

    def caption(self, index: int, generator: Generator) -> str:
        """A caption of a row; DataError where it has none."""
        try:
            labels = self.labels_of(self.rows[index], f"{self.name}, row {index}")
        except Reject as reject:
            raise DataError(str(reject), hint="Give it one.") from None
        return captions.CAPTIONS[self.rule](labels, generator)

    def pieces(self, unit: int) -> list[Piece]:
        """All of its rows."""
        return [Piece(len(self.rows))]

    def read(self, unit: int, index: int) -> Sample:
        """The picture and labels of a row; Reject where it cannot be used."""
        where = f"{self.name}, row {index}"
        row = captions.legible(lambda: self.rows[index], where)
        labels = self.labels_of(row, where)
        content, where = encoded(row[self.image_column], where)
        return Sample(decode(content, where, min_size=self.min_size), labels)


def bundled_emoji() -> TableSource:
    """The emoji that the miniature teacher was trained on."""
    import pyarrow.parquet as pq
    from datasets import Dataset, table

    from tdd_cli.bundled.emoji import DATA

    return TableSource(
        Dataset(table.InMemoryTable(pq.read_table(DATA))),
        "bundled:emoji",
        image_column="image",
        labels_of=_emoji_labels,
        rule="emoji",
        fingerprint=partial(file_hash, DATA),
    )


def folder(path: Path, columns: Columns) -> TableSource:
    """Pictures in a folder, their captions in metadata.csv or .jsonl, or each in a .txt beside it."""
    from datasets import Dataset

    if metadata_files(path):
        rows = Dataset.from_dict(metadata_rows(path, columns))
        return table(rows, str(path), columns, partial(_folder_hash, path))
    files = _files(path)
    pictures = [str(file) for file in files if file.suffix.lower() in PICTURES]
    if not any(Path(file).with_suffix(".txt").is_file() for file in pictures):
        what = "pictures but no captions" if pictures else "no pictures"
        for file in [] if pictures else files:
            check_unpacked(str(file))
        raise DataError(f"{path} holds {what}", hint=LAYOUT)
    return TableSource(
        Dataset.from_dict({"image": [named(picture) for picture in pictures]}),
        str(path),
        image_column="image",
        labels_of=_captions_beside,
        rule=columns.choice,
        fingerprint=partial(_folder_hash, path),
        min_size=columns.min_size,
    )


def parquet(source: str, columns: Columns) -> TableSource:
    """Parquet files: one path, or several by * and {000..009}."""
    paths = here(source)
    rows = asked(source, partial(_load, "parquet", data_files=paths, split="train"))
    return table(rows, source, columns, partial(fingerprint_of, paths))


def hub(source: str, columns: Columns) -> TableSource:
    """A data set on the hub, or in its cache."""
    name, revision = hub_name(source)
    rows = from_hub(source, partial(_load, name, revision=revision, split=columns.split))
    return table(rows, source, columns, partial(_text_hash, rows._fingerprint))


def table(rows: Any, source: str, columns: Columns, fingerprint: Callable[[], str]) -> TableSource:
    """The checked table: it has rows, its columns are there, and some rows pass data.where."""
    from datasets import Image as ImageFeature

    if len(rows) == 0:
        raise DataError(f"{source} holds no pictures", hint=LAYOUT)
    check_columns(source, columns, rows.column_names)
    if isinstance(rows.features[columns.image], ImageFeature):
        rows = rows.cast_column(columns.image, ImageFeature(decode=False))
    whole = len(rows)
    rows = _passing(rows, columns)
    left_out = {"filtered": whole - len(rows)} if len(rows) < whole else {}
    if len(rows) == 0:
        raise DataError(
            f"{source}: none of {whole:,} pictures passes data.where", hint="Lower the thresholds."
        )
    return TableSource(
        rows,
        source,
        image_column=columns.image,
        labels_of=partial(_captions_in, columns.caption),
        rule=columns.choice,
        fingerprint=fingerprint,
        min_size=columns.min_size,
        left_out=left_out,
    )


def _passing(rows: Any, columns: Columns) -> Any:
    """The rows that pass all thresholds; their other columns are not read."""
    if not columns.where:
        return rows
    names = list(dict.fromkeys(threshold.column for threshold in columns.where))
    values = rows.select_columns(names).with_format("arrow")[:].to_pydict()
    passing = [
        i
        for i in range(len(rows))
        if all(threshold.holds({name: values[name][i] for name in names}) for threshold in columns.where)
    ]
    return rows.select(passing)


def _load(*arguments: Any, **keywords: Any) -> Any:
    from datasets import Dataset, load_dataset

    rows = load_dataset(*arguments, **keywords)
    assert isinstance(rows, Dataset)
    return rows


def _emoji_labels(row: dict[str, Any], where: str) -> Labels:
    return {key: row[key] for key in ("name", "keywords", "group", "style")}


def _captions_in(column: str, row: dict[str, Any], where: str) -> Labels:
    return {"captions": captions.texts(row[column], where)}


def _captions_beside(row: dict[str, Any], where: str) -> Labels:
    return {"captions": captions.texts(_beside(row["image"]), row["image"])}


def _folder_hash(path: Path) -> str:
    return fingerprint_of([str(file) for file in _files(path)])


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files(path: Path) -> Sequence[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def _beside(picture: str) -> bytes | None:
    """The caption file of a picture; None where there is none."""
    try:
        return Path(picture).with_suffix(".txt").read_bytes()
    except OSError:
        return None
