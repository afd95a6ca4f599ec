"""Pictures on their way out."""

import json

import pytest
import torch
from PIL import Image

from tdd_cli.pictures import fitted, grid, save_png, to_images, to_pixels


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


def test_a_given_picture_is_cropped_to_size_with_white_behind_what_is_transparent(tmp_path):
    Image.new("RGBA", (40, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    image = fitted(tmp_path / "clear.png", (16, 16))
    assert (image.size, image.getpixel((3, 3))) == ((16, 16), (255, 255, 255))


def test_a_picture_becomes_pixels():
    pixels = to_pixels(Image.new("RGB", (6, 4), (255, 0, 51)))
    assert pixels.shape == (1, 3, 4, 6)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert to_pixels(Image.new("L", (6, 4))).shape == (1, 1, 4, 6)


def test_long_labels_go_on_in_further_lines_beside_the_pictures():
    label = "a very long prompt that cannot fit in one line of any reasonable width at all " * 3
    image = Image.new("RGB", (64, 64), "red")
    made = grid([[image, image]], [label], [label, "b"], title=label, note=label)
    red = sum(count for count, colour in made.getcolors(1 << 20) if colour == (255, 0, 0))
    assert red == 2 * 128 * 128
    assert made.width < 128 * 6
