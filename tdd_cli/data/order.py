"""Which sample stands at row n of a source's endless stream: a function of the seed and of what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tdd_cli.data.random import Use, generator_at, permutation
from tdd_cli.data.sources import Source
from tdd_cli.errors import DataError

MIXED = 8  # files whose samples are shuffled together
TRIES = 1000  # candidates for a row before the source is given up


@dataclass(frozen=True)
class Group:
    """A few files of an epoch, and the order of all their samples."""

    first: int  # row of the stream at which it begins
    units: tuple[int, ...]
    sizes: tuple[int, ...]  # samples of each
    order: Tensor  # [sum of sizes]

    def at(self, place: int) -> tuple[int, int]:
        """(unit, index in it) of a place in the group's order."""
        index = int(self.order[place])
        for unit, size in zip(self.units, self.sizes, strict=True):
            if index < size:
                return unit, index
            index -= size
        raise AssertionError("a place beyond the group")


class Order:
    """Epoch after epoch, each with its own order of files, and of the samples in every few files.

    Files are looked through when their turn comes; a source of one file is shuffled as a whole.
    """

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

    def _group_of(self, row: int) -> Group:
        if row < self._group.first:
            self._restart()
        while row >= self._group.first + len(self._group.order):
            self._advance()
        return self._group

    def _restart(self) -> None:
        self._epoch, self._number, self._seen = -1, -1, 0
        self._files: list[list[int]] = []
        self._group = Group(0, (), (), torch.empty(0, dtype=torch.long))

    def _advance(self) -> None:
        """Go on to the next group, in the next epoch if need be."""
        first = self._group.first + len(self._group.order)
        self._number += 1
        if self._number >= len(self._files):
            if self._epoch >= 0 and first == self._seen:
                raise DataError(f"{self.source.name} holds no pictures", hint="Check data.source.")
            self._epoch, self._number, self._seen = self._epoch + 1, 0, first
            files = permutation(self.source.units, self.seed, Use.FILES, self._epoch).tolist()
            self._files = [files[i : i + MIXED] for i in range(0, len(files), MIXED)]
        units = tuple(self._files[self._number])
        sizes = tuple(self.source.count(unit) for unit in units)
        order = permutation(sum(sizes), self.seed, Use.ORDER, self._epoch, self._number)
        self._group = Group(first, units, sizes, order)
