"""A folder's metadata.csv or metadata.jsonl, line by line: what cannot be read costs one picture, not all."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tdd_cli.data.rows import Row, from_csv, from_json
from tdd_cli.data.sources import LAYOUT, Columns, check_columns
from tdd_cli.errors import DataError


def metadata_rows(folder: Path, columns: Columns) -> dict[str, list[Any]]:
    """The columns asked for, of all metadata files in a folder; captions as bytes, scores as numbers.

    Pictures are their paths. A folder of the split's name that has metadata is read in place of the whole.
    DataError where a column is missing.
    """
    inside = folder / columns.split
    files = metadata_files(inside) or metadata_files(folder)
    try:
        rows = [row for file in files for row in READERS[file.suffix](file)]
    except csv.Error as error:
        raise DataError(f"{folder}: its metadata.csv cannot be read: {error}", hint=LAYOUT) from None
    names = dict.fromkeys(name for row in rows for name in row if name)
    if "file_name" not in names:
        raise DataError(f"{files[0]} has no column 'file_name'", hint=LAYOUT)
    check_columns(str(folder), columns, ["image" if name == "file_name" else name for name in names])
    scores = dict.fromkeys(threshold.column for threshold in columns.where)
    return {
        "image": [named(row.get("file_name") or "") for row in rows],
        **{name: [_number(row.get(name)) for row in rows] for name in scores},
        columns.caption: [_captions(row.get(columns.caption)) for row in rows],
    }


def metadata_files(folder: Path) -> list[Path]:
    """The metadata files in a folder and below it."""
    return sorted(file for file in folder.rglob("metadata.*") if file.suffix in READERS)


def named(path: str) -> str:
    """A path as a table can keep it: in place of one that is not UTF-8, one that is not there."""
    return path.encode("utf-8", "replace").decode()


def _csv(file: Path) -> Iterator[Row]:
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # bytes that are no text come through
    for row in from_csv(text):
        yield _placed(file, row)


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = from_json(line.decode("utf-8-sig", "surrogateescape"))
        except ValueError:
            row = None
        nothing = {"file_name": f"{file.name}, line {number}"}  # is not there, and is counted so
        yield _placed(file, row if isinstance(row, dict) else nothing)


READERS = {".csv": _csv, ".jsonl": _jsonl}


def _placed(file: Path, row: Row) -> Row:
    """A row whose picture is named from here, not from its metadata file."""
    name = row.get("file_name")
    return {**row, **({"file_name": str(file.parent / str(name))} if name else {})}


def _captions(cell: Any) -> list[bytes]:
    cells: Sequence[Any] = cell if isinstance(cell, list) else [cell]
    # what was no UTF-8 is none now either, so that it is found where captions are read
    return [str(one).encode("utf-8", "surrogatepass") for one in cells if one is not None]


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
