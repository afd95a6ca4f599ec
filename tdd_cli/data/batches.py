"""Batches in an order that is a function of the seed: row n of the stream is the same in every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tdd_cli.data.captions import CAPTIONS
from tdd_cli.data.order import Order
from tdd_cli.data.pictures import crop
from tdd_cli.data.random import Use, generator_at
from tdd_cli.data.rejects import Reject, tally, worded
from tdd_cli.data.sources import Sample, Source
from tdd_cli.errors import DataError

Key = tuple[int, int, bool]
"""(file, number in it, mirrored): what a picture's pixels depend on."""


@dataclass(frozen=True)
class Batch:
    """B samples: what is known of them so far (pixels, or from a cache x0), and what was cut away."""

    tensors: Mapping[str, Tensor]  # batch first: pixels [B, 3, H, W] in [-1, 1], or x0 [B, C, h, w], ...
    prompts: list[str]  # [B]
    sizes: Tensor  # [B, 6] height, width of the picture; crop top, left; height, width of the crop
    keys: list[Key] = field(default_factory=list)  # [B]
    left_out: list[Reject] = field(default_factory=list)  # what could not be used in their places

    def __len__(self) -> int:
        return len(self.prompts)


class Pictures(Dataset[Batch]):
    """Rows 0, 1, 2, ... of an endless stream: epoch after epoch of a source, each in its own order."""

    def __init__(self, source: Source, *, resolution: int, flip: bool, seed: int) -> None:
        self.source, self.resolution, self.flip, self.seed = source, resolution, flip, seed
        self.order = Order(source, seed=seed)

    def __getitem__(self, row: int) -> Batch:
        """Row `row` of the stream as a batch of one; DataError where nothing can be used in its place."""
        unit, index, sample, left_out = self._usable(row)
        generator = generator_at(self.seed, Use.SAMPLE, row)
        mirror = self.flip and torch.rand((), generator=generator).item() < 0.5
        pixels, size = crop(sample.image, (self.resolution, self.resolution), mirror=mirror)
        caption = CAPTIONS[self.source.rule](sample.labels, generator)
        return Batch({"pixels": pixels[None]}, [caption], size[None], [(unit, index, mirror)], left_out)

    def _usable(self, row: int) -> tuple[int, int, Sample, list[Reject]]:
        left_out = [Reject("filtered", self.source.name)] * self.order.filtered(row)
        for unit, index in self.order.candidates(row):
            try:
                return unit, index, self.source.read(unit, index), left_out
            except Reject as reject:
                left_out.append(reject)
        raise DataError(
            f"{self.source.name}: {len(left_out):,} samples in a row cannot be used: "
            f"{worded(tally(left_out))}; the first: {left_out[0]}",
            hint="Check data.source, data.min_size, data.where and the columns.",
        )


def batches(stream: Dataset[Batch], rows: Iterator[range], *, workers: int = 0) -> Iterator[Batch]:
    """One batch for each range of rows, decoded ahead by `workers` processes (0: here, when asked)."""
    loader = DataLoader(stream, batch_sampler=_Ranges(rows), num_workers=workers, collate_fn=collate)
    return iter(loader)


def collate(rows: list[Batch]) -> Batch:
    """Batches joined into one."""
    return Batch(
        {name: torch.cat([row.tensors[name] for row in rows]) for name in rows[0].tensors},
        [prompt for row in rows for prompt in row.prompts],
        torch.cat([row.sizes for row in rows]),
        [key for row in rows for key in row.keys],
        [reject for row in rows for reject in row.left_out],
    )


class _Ranges:
    """An iterator of ranges as DataLoader's batch sampler."""

    def __init__(self, rows: Iterator[range]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return (list(rows) for rows in self.rows)
