"""Thresholds on a sample's numbers: "aesthetic > 5.5"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_FORM = re.compile(r"\s*(?P<column>[^<>=]+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[^<>=]+?)\s*")


@dataclass(frozen=True)
class Threshold:
    """column sign bound."""

    column: str
    sign: str
    bound: float

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a sample passes; one without the number does not."""
        value = row.get(self.column)
        try:
            return value is not None and bool(SIGNS[self.sign](float(value), self.bound))
        except (TypeError, ValueError, OverflowError):
            return False


def parse(texts: Sequence[str]) -> tuple[Threshold, ...]:
    """The thresholds of a recipe's data.where; ValueError where one is none."""
    return tuple(_threshold(text) for text in texts)


def _threshold(text: str) -> Threshold:
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError(f'must be like "aesthetic > 5.5", with > >= < or <=, got {text!r}')
    try:
        return Threshold(found["column"], found["sign"], float(found["bound"]))
    except ValueError:
        raise ValueError(f"{found['bound']!r} in {text!r} is not a number") from None
