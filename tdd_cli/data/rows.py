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
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    finally:
        csv.field_size_limit(before)


def from_json(text: str | bytes) -> Any:
    """A JSON value; ValueError where there is none, or one nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
