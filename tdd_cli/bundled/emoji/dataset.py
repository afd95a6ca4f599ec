"""The data set in memory: pictures as tensors, and their small random displacements."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tdd_cli.bundled.emoji import DATA, EVALUATION, IMAGE_SIZE
from tdd_cli.bundled.emoji.captions import Row


class Emoji(NamedTuple):
    """All pictures, and what is known of each."""

    images: Tensor  # [N, 3, 64, 64] in [-1, 1]
    rows: list[Row]  # [N]


def load(path: Path = DATA) -> Emoji:
    """The whole data set: 2,500 pictures are 120 MB."""
    table = pq.read_table(path).to_pylist()
    images = torch.stack([decode(row["image"]) for row in table])
    return Emoji(
        images, [Row(row["name"], tuple(row["keywords"]), row["group"], row["style"]) for row in table]
    )


def decode(data: bytes) -> Tensor:
    """The bytes of a picture file -> [3, 64, 64] in [-1, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def evaluation_split(path: Path = EVALUATION) -> list[tuple[str, int]]:
    """The fixed (name, seed) pairs of the evaluation."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["name"], int(row["seed"])) for row in csv.DictReader(file)]


def displaced(
    images: Tensor,  # [B, 3, H, W] in [-1, 1], on white
    generator: torch.Generator,
    *,
    shift: float = 3.0,  # pixels, either way
    scale: float = 0.88,  # smallest; the largest is 1
    degrees: float = 14.0,  # either way
) -> Tensor:
    """Mirrored (one in two), shifted, shrunk and turned a little, each by its own draw: [B, 3, H, W]."""
    count = len(images)
    draws = torch.rand(count, 5, generator=generator)
    angle = (draws[:, 0] * 2 - 1) * math.radians(degrees)
    factor = 1 / (scale + (1 - scale) * draws[:, 1])
    mirror = torch.where(draws[:, 2] < 0.5, -1.0, 1.0)
    x, y = (draws[:, 3:] * 2 - 1).mul(2 * shift / IMAGE_SIZE).unbind(1)  # a picture spans [-1, 1]
    cos, sin = factor * angle.cos(), factor * angle.sin()
    theta = torch.stack([cos * mirror, -sin, x, sin * mirror, cos, y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    ink = F.grid_sample(1 - images, grid, mode="bicubic", align_corners=False)  # zero outside: white
    return (1 - ink).clamp(-1, 1)
