"""Batches: a repeatable order, and sizes that are true to the crop made."""

import pytest
import torch
from PIL import Image

from tdd_cli.data.batches import Stream, batches, crop
from tdd_cli.data.random import Use, permutation, seed_at


class Numbered:
    """Ten 8 x 8 pictures whose grey level is their number."""

    def __len__(self):
        return 10

    def picture(self, index):
        return Image.new("RGB", (8, 8), (index, index, index))

    def caption(self, index, generator):
        return f"{index}, drawing {torch.randint(1000, (), generator=generator)}"


def stream(seed=0, flip=True):
    return Stream(Numbered(), resolution=8, flip=flip, seed=seed)


def numbers(batch):
    return ((batch.pixels[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_every_epoch_visits_every_picture_once_in_its_own_order():
    first, second = (numbers(batch) for batch in batches(stream(), iter([range(10), range(10, 20)])))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_row_of_the_stream_is_the_same_wherever_one_starts():
    whole = next(batches(stream(), iter([range(25)])))
    later = next(batches(stream(), iter([range(13, 25)])))
    assert torch.equal(whole.pixels[13:], later.pixels)
    assert whole.prompts[13:] == later.prompts
    assert whole.keys[13:] == later.keys


def test_another_seed_gives_another_order():
    one, other = (next(batches(stream(seed), iter([range(10)]))) for seed in (0, 1))
    assert one.prompts != other.prompts


def test_worker_processes_change_nothing():
    ranges = [range(4), range(4, 8), range(8, 12)]
    here = list(batches(stream(), iter(ranges)))
    elsewhere = list(batches(stream(), iter(ranges), workers=2))
    assert [batch.prompts for batch in here] == [batch.prompts for batch in elsewhere]


@pytest.mark.parametrize(
    ("size", "sizes"),  # (width, height) of the picture; (height, width, top, left, R, R)
    [
        ((64, 64), [64, 64, 0, 0, 64, 64]),
        ((200, 100), [100, 200, 0, 32, 64, 64]),
        ((100, 300), [300, 100, 64, 0, 64, 64]),
        ((32, 16), [16, 32, 0, 32, 64, 64]),
    ],
)
def test_sizes_are_those_of_the_crop_made(size, sizes):
    pixels, found = crop(Image.new("RGB", size), 64)
    assert pixels.shape == (3, 64, 64)
    assert found.tolist() == sizes


def test_the_crop_is_where_its_sizes_say():
    picture = Image.new("RGB", (129, 64))
    picture.putdata([(x, y, 0) for y in range(64) for x in range(129)])
    for mirror in (False, True):
        pixels, sizes = crop(picture, 64, mirror=mirror)
        source = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture
        top, left = int(sizes[2]), int(sizes[3])
        assert ((pixels[:2, 0, 0] + 1) * 127.5).round().int().tolist() == list(source.getpixel((left, top)))[
            :2
        ]


def test_pixels_span_minus_one_to_one():
    pixels, _ = crop(Image.new("RGB", (8, 8), (255, 0, 0)), 8)
    assert pixels[:, 0, 0].tolist() == [1, -1, -1]


def test_seeds_differ_by_use_place_and_run():
    seeds = {seed_at(run, use, place) for run in range(4) for use in Use for place in range(50)}
    assert len(seeds) == 4 * len(Use) * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_is_a_permutation():
    assert permutation(100, 7, 3).sort().values.tolist() == list(range(100))
