"""Pictures on their way out."""

import json

import torch
from PIL import Image

from tdd_cli.pictures import grid, save_png, to_images


def test_pixels_become_bytes():
    pixels = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    (image,) = to_images(pixels)
    assert image.size == (6, 4)
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_a_png_carries_its_settings(tmp_path):
    save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"prompt": "ein Fuchs, weiß", "seed": 3})
    assert json.loads(Image.open(tmp_path / "a.png").text["tdd"]) == {"prompt": "ein Fuchs, weiß", "seed": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_grid_has_room_for_every_picture_and_label():
    rows = [[Image.new("RGB", (64, 64), "red")] * 3] * 2
    made = grid(
        rows,
        ["teacher, 50 steps", "student"],
        ["a", "b", "a very long prompt that cannot fit at all"],
        title="t",
    )
    assert made.width > 3 * 128
    red = sum(count for count, colour in made.getcolors(1 << 20) if colour == (255, 0, 0))
    assert red == 6 * 128 * 128  # no picture covered by another or by a label
