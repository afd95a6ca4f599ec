"""Samples that are left out: why, which, and how many. None of them stops a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

REASONS = (
    "unreadable picture",
    "no picture",
    "too small",
    "no caption",
    "unreadable caption",
    "filtered",  # by data.where
    "truncated file",
    "damaged file",
)
"""Every reason there is, in the order in which counts of them are kept."""


class Reject(Exception):
    """One sample that cannot be used: `reason` is one of REASONS, `where` names the sample."""

    def __init__(self, reason: str, where: str) -> None:
        assert reason in REASONS
        super().__init__(reason, where)
        self.reason, self.where = reason, where

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def tally(rejects: Iterable[Reject]) -> Counter[str]:
    """How many there are of each reason."""
    return Counter(reject.reason for reject in rejects)


def worded(counts: Mapping[str, int]) -> str:
    """Counts as "3 too small, 1 unreadable picture", the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(counts).most_common() if count)
