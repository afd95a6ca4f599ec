"""Text to rows: CSV with fields of any length, and JSON whose every fault is a ValueError."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

Row = dict[str, Any]
LONGEST = 2**31 - 1  # characters of a CSV field; Python's own limit is 131,072


def from_csv(text: str, *, delimiter: str = ",") -> list[Row]:
    """The rows below the first line, which names the columns; csv.Error where they cannot be told apart."""
    before = csv.field_size_limit(LONGEST)
    try:
        found = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        if text.count('"') % 2:
            _check_closed(text, delimiter)
        return found
    finally:
        csv.field_size_limit(before)


def _check_closed(text: str, delimiter: str) -> None:
    """csv.Error where the last quote is not closed: all rows behind it would be one field of one row."""
    strict = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for _ in strict:
            line = strict.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise csv.Error(f"a quote is opened in line {line} and never closed") from None


def from_json(text: str | bytes) -> Any:
    """A JSON value; ValueError where there is none, or one nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
