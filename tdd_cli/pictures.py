"""Pictures on their way out: tensors to images, PNG files that know their making, and labelled grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tdd_cli.errors import DataError
from tdd_cli.files import replacing

INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels [B, 3, H, W] in [-1, 1] as B pictures."""
    bytes_ = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in bytes_]


def save_png(image: Image.Image, path: Path, settings: Mapping[str, object] | None = None) -> None:
    """Write a PNG, with `settings` as JSON in its text chunk "tdd"; beside first, then renamed."""
    info = PngInfo()
    if settings is not None:
        info.add_text("tdd", json.dumps(settings))
    with replacing(path) as beside:
        image.save(beside, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that `save_png` put into a file; None where there are none.

    Raises DataError where it is no picture.
    """
    with open_image(path) as image:
        text = getattr(image, "text", {}).get("tdd")
    try:
        found = json.loads(text) if text else None
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def open_image(path: Path) -> Image.Image:
    """The picture in a file; DataError where it cannot be read."""
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the picture cannot be read ({error})") from None
    return image


def fitted(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture in a file, enlarged or reduced and cropped to (height, width), transparency on white."""
    image = ImageOps.exif_transpose(open_image(path)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image).convert("RGB")
    return ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image) -> Tensor:
    """A picture as pixels [1, C, H, W] in [0, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return values.reshape(image.height, image.width, -1).permute(2, 0, 1)[None]


def grid(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] = (),
    *,
    title: str = "",
    note: str = "",
    cell: int = 128,
) -> Image.Image:
    """Pictures in rows and columns, each `cell` pixels wide, labelled at the left and at the top.

    Labels that are too long go on in a second and third line; `title` and `note` stand above, over all.
    """
    size = max(14, cell // 10)
    font, small, large = (ImageFont.load_default(s) for s in (size, size - 1, size + 6))
    gap, line = max(8, cell // 16), size + 5
    columns = max(len(row) for row in rows)
    tall = max(cell * image.height // image.width for row in rows for image in row)
    beside = [_lines(label, font, 2 * cell, 3) for label in row_labels]
    left = 2 * gap + max((int(font.getlength(text)) for lines in beside for text in lines), default=-gap)
    width = left + columns * (cell + gap)
    above = [
        *((text, large, INK) for text in _lines(title, large, width - 2 * gap, 3)),
        *((text, small, FAINT) for text in _lines(note, small, width - 2 * gap, 3)),
    ]
    heads = [_lines(label, small, cell, 3) for label in column_labels]
    head = gap + (line + 4) * len(above)
    top = head + line * max((len(lines) for lines in heads), default=0) + (6 if heads else 0)
    canvas = Image.new("RGB", (width, top + len(rows) * (tall + gap)), PAPER)
    paint = ImageDraw.Draw(canvas)
    for i, (text, face, ink) in enumerate(above):
        paint.text((gap, gap + i * (line + 4)), text, ink, face)
    for i, lines in enumerate(heads):
        for k, text in enumerate(reversed(lines)):
            middle = left + i * (cell + gap) + cell // 2
            paint.text((middle, top - 6 - k * line), text, FAINT, small, anchor="md")
    for j, row in enumerate(rows):
        y = top + j * (tall + gap)
        for k, text in enumerate(beside[j]):
            middle = y + tall // 2 + int((k - (len(beside[j]) - 1) / 2) * line)
            paint.text((left - gap, middle), text, INK, font, anchor="rm")
        for i, image in enumerate(row):
            enlarge = Image.Resampling.NEAREST if cell % image.width == 0 else Image.Resampling.LANCZOS
            shown = image.resize((cell, cell * image.height // image.width), enlarge)
            canvas.paste(shown, (left + i * (cell + gap), y))
    return canvas


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels, cut short where it needs more."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += _wrapped(paragraph.split(), font, width, most - len(lines))
    return lines


def _wrapped(
    words: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int
) -> list[str]:
    lines: list[str] = []
    while words and most:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        if len(lines) == most - 1:
            taken = len(words)
        lines.append(_fit(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return lines


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or its beginning, within `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
