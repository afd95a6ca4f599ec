"""Which sample stands at row n of a source's endless stream: a function of the seed and of what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from tdd_cli.data.random import Use, generator_at, permutation
from tdd_cli.data.sources import Source
from tdd_cli.errors import DataError

MIXED = 8  # pieces whose samples are shuffled together; and files whose pieces are
TRIES = 1000  # candidates for a row before the source is given up
NONE = 100_000  # samples in a row that fail data.where, likewise


class Run(NamedTuple):
    """Samples of a file that lie one after another."""

    unit: int
    start: int
    size: int


@dataclass(frozen=True)
class Group:
    """A few pieces of an epoch, and the order of all their samples."""

    first: int  # row of the stream at which it begins
    pieces: tuple[Run, ...]
    filtered: int  # samples that data.where leaves out of them
    order: Tensor  # [sum of sizes]

    def at(self, place: int) -> tuple[int, int]:
        """(unit, index in it) of a place in the group's order."""
        index = int(self.order[place])
        for piece in self.pieces:
            if index < piece.size:
                return piece.unit, piece.start + index
            index -= piece.size
        raise AssertionError("a place beyond the group")


class Order:
    """Epoch after epoch, each with its own order of files, of the pieces of every few files, and of the
    samples of every few pieces.

    Files are looked through when their turn comes. A file that can be read anywhere is one piece, so that a
    source of one such file is shuffled as a whole.
    """

    _group: Group
    _none: int  # samples in a row, up to here, that data.where leaves out

    def __init__(self, source: Source, *, seed: int) -> None:
        self.source, self.seed = source, seed
        self._restart()

    def candidates(self, row: int) -> Iterator[tuple[int, int]]:
        """The sample at a row, then what stands in where it is left out: others of its group, each once."""
        group = self._group_of(row)
        place, count = row - group.first, len(group.order)
        yield group.at(place)
        start = int(torch.randint(count, (), generator=generator_at(self.seed, Use.SUBSTITUTE, row)))
        others = (other % count for other in range(start, start + count))
        for tried, other in enumerate(other for other in others if other != place):
            if tried == TRIES:
                return
            yield group.at(other)

    def filtered(self, row: int) -> int:
        """How many samples data.where has left out that count with this row: its group's, with its first."""
        group = self._group_of(row)
        return group.filtered if row == group.first else 0

    def _group_of(self, row: int) -> Group:
        if row < self._group.first:
            self._restart()
        while row >= self._group.first + len(self._group.order):
            self._advance()
            self._none = 0 if len(self._group.order) else self._none + self._group.filtered
            if self._none > NONE:
                self._give_up()
        return self._group

    def _restart(self) -> None:
        self._epoch, self._number, self._seen, self._none = -1, -1, 0, 0
        self._files: list[list[int]] = []  # of the epoch, still to come
        self._groups: list[list[tuple[Run, int]]] = []  # of the files, still to come: (piece, filtered)
        self._group = Group(0, (), 0, torch.empty(0, dtype=torch.long))

    def _advance(self) -> None:
        """Go on to the next group, in the next epoch if need be."""
        first = self._group.first + len(self._group.order)
        if not self._files and not self._groups:
            if self._epoch >= 0 and first == self._seen:
                self._give_up()
            self._epoch, self._number, self._seen = self._epoch + 1, -1, first
            files = permutation(self.source.units, self.seed, Use.FILES, self._epoch).tolist()
            self._files = [files[i : i + MIXED] for i in range(0, len(files), MIXED)]
        if not self._groups:
            self._groups = self._groups_of(self._files.pop(0))
        self._number += 1
        found = self._groups.pop(0)
        pieces = tuple(piece for piece, _ in found)
        order = permutation(
            sum(piece.size for piece in pieces), self.seed, Use.ORDER, self._epoch, self._number
        )
        self._group = Group(first, pieces, sum(filtered for _, filtered in found), order)

    def _groups_of(self, files: list[int]) -> list[list[tuple[Run, int]]]:
        """The pieces of some files, a few at a time; more than a few are shuffled before."""
        found = []
        for unit in files:
            start = 0
            for piece in self.source.pieces(unit):
                found.append((Run(unit, start, piece.size), piece.filtered))
                start += piece.size
        if len(found) > MIXED:
            order = permutation(len(found), self.seed, Use.PIECES, self._epoch, self._number + 1)
            found = [found[i] for i in order.tolist()]
        return [found[i : i + MIXED] for i in range(0, len(found), MIXED)] or [[]]

    def _give_up(self) -> NoReturn:
        name = self.source.name
        if self._none:
            raise DataError(
                f"{name}: none of {self._none:,} pictures passes data.where", hint="Lower the thresholds."
            )
        raise DataError(f"{name} holds no pictures", hint="Check data.source.")
