"""A file of prompts: one a line, or a column of a table; bundled:emoji has its data's captions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tdd_cli.data import captions
from tdd_cli.data.random import Use, generator_at
from tdd_cli.data.rows import from_csv, from_json
from tdd_cli.errors import DataError

Reader = Callable[[Path, str], list[str]]
"""(file, column) -> its prompts."""

KINDS = "UTF-8 text with one prompt a line, or .csv, .tsv, .json, .jsonl or .parquet with a column of them"


def read_prompts(file: str, *, column: str = "text") -> list[str]:
    """The prompts in a file, in its order, empty ones left out. DataError where there are none."""
    path = Path(file).expanduser()
    if file == "bundled:emoji":
        return _emoji_prompts()
    if not path.is_file():
        raise DataError(f"there is no file {file}", hint=f"Check data.prompts: {KINDS}.")
    try:
        found = READERS.get(path.suffix.lower(), _lines)(path, column)
        prompts = [text for one in found if (text := one.strip())]
        "".join(prompts).encode()  # half of a surrogate pair is no text, and no tokenizer takes it
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint=f"It must be {KINDS}.") from None
    if not prompts:
        raise DataError(f"{file} holds no prompts", hint=f"It must be {KINDS}.")
    return prompts


def _lines(path: Path, column: str) -> list[str]:
    kind = f"a {path.suffix} file" if path.suffix else "such a file"
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} is read as text, and this is none ({error})") from None
    if "\0" in text:
        raise ValueError(f"{kind} is read as text, and this is none")
    return text.splitlines()


def _csv(path: Path, column: str, *, delimiter: str = ",") -> list[str]:
    return _prompts(path, column, from_csv(path.read_text("utf-8-sig"), delimiter=delimiter))


def _json(path: Path, column: str) -> list[str]:
    found = from_json(path.read_text("utf-8-sig"))
    return _prompts(path, column, found if isinstance(found, list) else [found])


def _jsonl(path: Path, column: str) -> list[str]:
    rows = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        try:
            rows.append(from_json(line) if line.strip() else None)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return _prompts(path, column, rows)


def _parquet(path: Path, column: str) -> list[str]:
    import pyarrow.parquet as pq

    _check_column(path, column, pq.read_schema(path).names)
    return [str(one or "") for one in pq.read_table(path, columns=[column])[column].to_pylist()]


def _prompts(path: Path, column: str, rows: list[Any]) -> list[str]:
    """Rows that are prompts themselves, or have them in a column; "" where there is none."""
    tables = [row for row in rows if isinstance(row, dict)]
    if tables:
        _check_column(path, column, list(dict.fromkeys(name for row in tables for name in row if name)))
    found = [row.get(column) if isinstance(row, dict) else row for row in rows]
    wrong = next((one for one in found if one is not None and not isinstance(one, str)), None)
    if wrong is not None:
        raise ValueError(f"{str(wrong)[:60]!r} is no prompt")
    return [one or "" for one in found]


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


READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
