"""Encoded pictures to squares (or near-squares) of pixels, with the sizes that SDXL is told."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tdd_cli.data.rejects import Reject

Size = tuple[int, int]
"""(height, width) in pixels."""
STRIP = 16  # a picture which, scaled, has more than so many times the crop's pixels is not scaled as a whole


def encoded(cell: Any, where: str) -> tuple[bytes, str]:
    """(the bytes of a picture file, its name) in a table's cell: bytes, a path, or datasets' pair of both.

    Raises Reject where there are none.
    """
    if isinstance(cell, dict):
        where = cell.get("path") or where
        cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    if isinstance(cell, str):
        where = cell
        try:
            cell = Path(cell).read_bytes()
        except (OSError, ValueError):  # the latter of a name with a zero in it
            cell = None
    if not cell:
        raise Reject("no picture", where)
    return cell, where


def decode(content: bytes, where: str, *, min_size: int = 0) -> Image.Image:
    """The picture, RGB, transparency laid on white; Reject where it cannot be read or is too small.

    min_size  of the shorter side, pixels; looked at before anything is decoded
    """
    try:
        image = Image.open(io.BytesIO(content))
        if min(image.size) < max(min_size, 1):
            raise Reject("too small", where)
        return on_white(image)
    except (Reject, MemoryError):
        raise
    except Exception:  # Pillow's decoders raise whatever their format's parser meets
        raise Reject("unreadable picture", where) from None


def on_white(image: Image.Image) -> Image.Image:
    """RGB, what is transparent laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def crop(image: Image.Image, size: Size, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """(pixels [3, H, W] in [-1, 1], sizes [6]) of the middle of a picture scaled to cover `size`.

    The sizes are true to the crop made: height and width of the picture; top and left of the crop, measured
    in the scaled, mirrored picture; height and width of the crop.
    """
    (width, height), (rows, columns) = image.size, size
    scale = max(rows / height, columns / width)
    high, wide = max(rows, round(height * scale)), max(columns, round(width * scale))
    top, left = (high - rows) // 2, (wide - columns) // 2
    image = _cut(image, (high, wide), (top, left), size)
    if mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left = wide - columns - left
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels, torch.tensor([height, width, top, left, rows, columns], dtype=torch.float32)


def _cut(image: Image.Image, scaled: Size, corner: Size, size: Size) -> Image.Image:
    """The crop of `size` at a corner (top, left) of a picture once it is `scaled`."""
    (high, wide), (top, left), (rows, columns) = scaled, corner, size
    edges = (left, top, left + columns, top + rows)
    if high * wide > STRIP * rows * columns:  # 2 x 20,000 pixels would be scaled to gigabytes
        across, down = image.width / wide, image.height / high
        box = (edges[0] * across, edges[1] * down, edges[2] * across, edges[3] * down)
        return image.resize((columns, rows), Image.Resampling.LANCZOS, box=box)
    if (wide, high) != image.size:
        image = image.resize((wide, high), Image.Resampling.LANCZOS)
    return image.crop(edges)


def shapes(resolution: int, max_aspect: float) -> list[Size]:
    """The crops to choose from: sides in multiples of R / 16 (at least 8), no more than R x R pixels in all.

    max_aspect  longest by shortest side; 1 leaves the square alone. At 1024 pixels and 4 these are SDXL's.
    """
    step = max(8, resolution // 16)
    found = {(resolution, resolution)}
    for width in range(step, int(resolution * max_aspect) + 1, step):
        height = resolution * resolution // width // step * step
        if height and max(width, height) <= max_aspect * min(width, height):
            found |= {(height, width), (width, height)}
    return sorted(found)


def nearest_shape(image: Image.Image, among: list[Size]) -> Size:
    """The shape whose aspect is nearest to the picture's, by ratio."""
    aspect = float(np.log(image.height / image.width))
    return min(among, key=lambda size: abs(float(np.log(size[0] / size[1])) - aspect))
