"""A file of prompts: one a line, or a column of a .csv or .parquet; bundled:emoji has its data's captions."""

from __future__ import annotations

import csv
from pathlib import Path

from tdd_cli.data import captions
from tdd_cli.data.random import Use, generator_at
from tdd_cli.errors import DataError


def read_prompts(file: str, *, column: str = "text") -> list[str]:
    """The prompts in a file, in its order, empty ones left out. DataError where there are none."""
    path = Path(file).expanduser()
    if file == "bundled:emoji":
        return _emoji_prompts()
    if not path.is_file():
        raise DataError(
            f"there is no file {file}", hint="Check data.prompts: a text file, one prompt a line."
        )
    try:
        found = READERS.get(path.suffix.lower(), _lines)(path, column)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint="It must be UTF-8 text.") from None
    prompts = [text for one in found if (text := one.strip())]
    if not prompts:
        raise DataError(f"{file} holds no prompts", hint="One prompt a line.")
    return prompts


def _lines(path: Path, column: str) -> list[str]:
    return path.read_text("utf-8-sig").splitlines()


def _csv(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        _check_column(path, column, list(rows.fieldnames or ()))
        return [row[column] or "" for row in rows]


def _parquet(path: Path, column: str) -> list[str]:
    import pyarrow.parquet as pq

    _check_column(path, column, pq.read_schema(path).names)
    return [str(one or "") for one in pq.read_table(path, columns=[column])[column].to_pylist()]


def _check_column(path: Path, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise DataError(
            f"{path} has no column {column!r}; it has {', '.join(columns)}",
            hint="Set data.caption_column to one of them.",
        )


def _emoji_prompts() -> list[str]:
    """A caption of each of the bundled pictures, styles and keywords among them."""
    import pyarrow.parquet as pq

    from tdd_cli.bundled.emoji import DATA

    rows = pq.read_table(DATA, columns=["name", "keywords", "group", "style"]).to_pylist()
    return [captions.emoji(row, generator_at(0, Use.CAPTION, i)) for i, row in enumerate(rows)]


READERS = {".csv": _csv, ".parquet": _parquet}
