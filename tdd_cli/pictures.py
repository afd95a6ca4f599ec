"""Pictures on their way out: tensors to images, PNG files that know their making, and labelled grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

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


def grid(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] = (),
    *,
    title: str = "",
    cell: int = 128,
) -> Image.Image:
    """Pictures in rows and columns, each `cell` pixels wide, labelled at the left and at the top."""
    font, small = ImageFont.load_default(max(12, cell // 9)), ImageFont.load_default(max(11, cell // 10))
    gap = cell // 16
    left = gap * 2 + max((int(font.getlength(label)) for label in row_labels), default=0)
    top = (gap + 24 if title else gap) + (gap + 18 if column_labels else 0)
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (left + columns * (cell + gap), top + len(rows) * (cell + gap)), PAPER)
    paint = ImageDraw.Draw(canvas)
    if title:
        paint.text((gap, gap), title, INK, ImageFont.load_default(18))
    for i, label in enumerate(column_labels):
        middle = left + i * (cell + gap) + cell // 2
        paint.text((middle, top - gap // 2), _fit(label, small, cell), FAINT, small, anchor="md")
    for j, row in enumerate(rows):
        y = top + j * (cell + gap)
        paint.text((left - gap, y + cell // 2), row_labels[j], INK, font, anchor="rm")
        for i, image in enumerate(row):
            enlarge = Image.Resampling.NEAREST if cell % image.width == 0 else Image.Resampling.LANCZOS
            canvas.paste(
                image.resize((cell, cell * image.height // image.width), enlarge),
                (left + i * (cell + gap), y),
            )
    return canvas


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or its beginning, within `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
