"""Batches in an order that is a function of the seed: row n of the stream is the same in every run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tdd_cli.data.random import Use, generator_at, permutation
from tdd_cli.data.sources import Source


@dataclass(frozen=True)
class Batch:
    """Pictures, captions, and what was cut away."""

    pixels: Tensor  # [B, 3, R, R] in [-1, 1]
    prompts: list[str]  # [B]
    sizes: Tensor  # [B, 6] original height, width; crop top, left; target height, width (SDXL's ids)
    keys: list[tuple[int, bool]]  # [B] (number of the picture in its source, mirrored): what pixels depend on


class Stream(Dataset[Batch]):
    """Rows 0, 1, 2, ... of an endless stream: epoch after epoch of a source, each in its own order."""

    def __init__(self, source: Source, *, resolution: int, flip: bool, seed: int) -> None:
        self.source, self.resolution, self.flip, self.seed = source, resolution, flip, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __getitem__(self, row: int) -> Batch:
        """Row `row` of the stream as a batch of one."""
        generator = generator_at(self.seed, Use.SAMPLE, row)
        index = self._index(row)
        mirror = self.flip and torch.rand((), generator=generator).item() < 0.5
        pixels, size = crop(self.source.picture(index), self.resolution, mirror=mirror)
        caption = self.source.caption(index, generator)
        return Batch(pixels[None], [caption], size[None], [(index, mirror)])

    def _index(self, row: int) -> int:
        """The number in the source of the stream's row."""
        epoch, place = divmod(row, len(self.source))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, permutation(len(self.source), self.seed, epoch)
        return int(self._order[place])


def batches(stream: Stream, rows: Iterator[range], *, workers: int = 0) -> Iterator[Batch]:
    """One batch for each range of rows, decoded ahead by `workers` processes (0: here, when asked)."""
    loader = DataLoader(stream, batch_sampler=_Ranges(rows), num_workers=workers, collate_fn=collate)
    return iter(loader)


def collate(rows: list[Batch]) -> Batch:
    """Batches joined into one."""
    return Batch(
        torch.cat([row.pixels for row in rows]),
        [prompt for row in rows for prompt in row.prompts],
        torch.cat([row.sizes for row in rows]),
        [key for row in rows for key in row.keys],
    )


def crop(image: Image.Image, resolution: int, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """(pixels [3, R, R] in [-1, 1], sizes [6]) of the middle square, the shorter side resized to R.

    The sizes are true to the crop made: where it begins is measured in the resized, mirrored picture.
    """
    width, height = image.size
    scale = resolution / min(width, height)
    wide, high = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.LANCZOS)
    top, left = (high - resolution) // 2, (wide - resolution) // 2
    image = image.crop((left, top, left + resolution, top + resolution))
    if mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left = wide - resolution - left
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels, torch.tensor([height, width, top, left, resolution, resolution], dtype=torch.float32)


class _Ranges:
    """An iterator of ranges as DataLoader's batch sampler."""

    def __init__(self, rows: Iterator[range]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return (list(rows) for rows in self.rows)
