"""Rows of an endless stream out of a cache; where shapes differ, every optimizer step has one shape."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tdd_cli.data.batches import Batch
from tdd_cli.data.captions import CAPTIONS
from tdd_cli.data.random import Use, generator_at, permutation
from tdd_cli.data.store import Contents
from tdd_cli.errors import DataError

MIRRORED = "mirrored."  # before the name of a tensor: of the mirror image


class Stored(Dataset[Batch]):
    """Rows 0, 1, 2, ... of an endless stream, pictures, captions and mirrorings as without a cache."""

    def __init__(
        self,
        contents: Contents,
        *,
        cond: list[str],  # names of the text encoders' outputs, if they are kept
        rule: str,  # of CAPTIONS
        flip: bool,
        batch: int,
        seed: int,
    ) -> None:
        if not len(contents):
            raise DataError(
                "every sample was left out: there is nothing to train on",
                hint="Check data.source, data.min_size, data.where and the columns.",
            )
        self.contents, self.cond, self.rule = contents, cond, rule
        self.flip, self.seed = flip, seed
        self.order = ShapeOrder(contents.shapes, batch=batch, seed=seed)

    def __getitem__(self, row: int) -> Batch:
        """Row `row` of the stream as a batch of one."""
        number = self.order[row]
        generator = generator_at(self.seed, Use.SAMPLE, row)
        mirror = self.flip and torch.rand((), generator=generator).item() < 0.5
        prefix = MIRRORED if mirror else ""
        pair = (f"{prefix}x0", f"{prefix}sizes")
        tensors, labels = self.contents.read(number, [*pair, *self.cond])
        caption = CAPTIONS[self.rule](labels, generator)
        x0, sizes = (tensors.pop(name) for name in pair)
        return Batch(
            {"x0": x0.float()[None], **{name: value[None] for name, value in tensors.items()}},
            [caption],
            sizes[None],
            [(0, number, mirror)],
        )


class ShapeOrder:
    """Which sample stands at row n, such that the rows of one optimizer step have one shape.

    Each shape is an endless stream of its own samples, epoch after epoch, and in every epoch over all samples
    has as many steps as its share of them: a shape too rare for one in every epoch has one now and then.
    """

    def __init__(self, shapes: list[tuple[int, ...]], *, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        members = defaultdict(list)
        for number, shape in enumerate(shapes):
            members[shape].append(number)
        self.members = [members[shape] for shape in sorted(members)]
        self._orders: dict[int, tuple[int, Tensor]] = {}  # of each shape: (epoch, its order)
        self._plan: tuple[int, list[tuple[int, int]]] = (-1, [])

    def __getitem__(self, row: int) -> int:
        """The number of the sample at a row."""
        if len(self.members) == 1:
            return self._nth(0, row)
        shape, turn = self._turn(row // self.batch)
        return self._nth(shape, turn * self.batch + row % self.batch)

    def _nth(self, shape: int, place: int) -> int:
        """The sample at a place of a shape's own stream."""
        members = self.members[shape]
        epoch, place = divmod(place, len(members))
        if self._orders.get(shape, (-1, None))[0] != epoch:
            order = permutation(len(members), self.seed, Use.ORDER, epoch, shape)
            self._orders[shape] = (epoch, order)
        return members[int(self._orders[shape][1][place])]

    def _turn(self, step: int) -> tuple[int, int]:
        """(shape, how many steps it had before) of an optimizer step."""
        epoch = step * self.batch // sum(map(len, self.members))
        while self._steps_before(epoch + 1) <= step:
            epoch += 1
        if self._plan[0] != epoch:
            turns = [
                (shape, turn)
                for shape, members in enumerate(self.members)
                for turn in range(*(e * len(members) // self.batch for e in (epoch, epoch + 1)))
            ]
            order = permutation(len(turns), self.seed, Use.FILES, epoch).tolist()
            self._plan = (epoch, [turns[i] for i in order])
        return self._plan[1][step - self._steps_before(epoch)]

    def _steps_before(self, epoch: int) -> int:
        return sum(epoch * len(members) // self.batch for members in self.members)
