"""Batches: a repeatable order, and sizes that are true to the crop made."""

import pytest
import torch
from PIL import Image

from tdd_cli.data.batches import Pictures, batches
from tdd_cli.data.pictures import crop, nearest_shape, shapes
from tdd_cli.data.random import Use, permutation, seed_at
from tdd_cli.data.rejects import Reject, tally
from tdd_cli.data.sources import Piece, Sample
from tdd_cli.errors import DataError


class Numbered:
    """8 x 8 pictures in a few files, whose grey level is their number; some cannot be used."""

    name, rule, left_out = "numbered", "random", {}

    def __init__(self, *sizes, bad=()):
        self.sizes, self.units, self.bad = sizes, len(sizes), bad

    def pieces(self, unit):
        return [Piece(self.sizes[unit])]

    def read(self, unit, index):
        number = sum(self.sizes[:unit]) + index
        if number in self.bad:
            raise Reject("too small", f"number {number}")
        captions = [f"{number}, drawing {drawing}" for drawing in range(50)]
        return Sample(Image.new("RGB", (8, 8), (number, number, number)), {"captions": captions})


def stream(seed=0, flip=True, source=None):
    return Pictures(source or Numbered(10), resolution=8, flip=flip, seed=seed)


def numbers(batch):
    return ((batch.tensors["pixels"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_every_epoch_visits_every_picture_once_in_its_own_order():
    first, second = (numbers(batch) for batch in batches(stream(), iter([range(10), range(10, 20)])))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_row_of_the_stream_is_the_same_wherever_one_starts():
    whole = next(batches(stream(), iter([range(25)])))
    later = next(batches(stream(), iter([range(13, 25)])))
    assert torch.equal(whole.tensors["pixels"][13:], later.tensors["pixels"])
    assert whole.prompts[13:] == later.prompts
    assert whole.keys[13:] == later.keys


def test_a_source_of_many_files_is_seen_whole_in_every_epoch_and_from_any_row_on():
    source = Numbered(*range(1, 20), 0)
    total = sum(source.sizes)
    first, second = (numbers(batch) for batch in batches(stream(source=source), two_epochs(total)))
    assert sorted(first) == sorted(second) == list(range(total))
    assert first != second
    fresh = stream(source=source)
    assert [numbers(fresh[row])[0] for row in (total + 7, 3, total - 1)] == [second[7], first[3], first[-1]]


def two_epochs(total):
    return iter([range(total), range(total, 2 * total)])


def test_what_cannot_be_used_is_counted_and_another_stands_in():
    source = Numbered(10, bad=(2, 5))
    whole = next(batches(stream(source=source), iter([range(10)])))
    assert not set(numbers(whole)) & {2, 5}
    assert tally(whole.left_out)["too small"] >= 2
    good = next(batches(stream(source=Numbered(10)), iter([range(10)])))
    same = [a == b for a, b in zip(numbers(whole), numbers(good), strict=True)]
    assert same.count(False) == 2


def test_the_one_usable_picture_is_found():
    whole = next(batches(stream(source=Numbered(40, bad=set(range(40)) - {17})), iter([range(5)])))
    assert numbers(whole) == [17] * 5


def test_a_source_of_which_nothing_can_be_used_ends_with_the_counts():
    with pytest.raises(
        DataError, match="12 samples in a row cannot be used: 12 too small; the first: number"
    ):
        stream(source=Numbered(12, bad=range(12)))[0]
    with pytest.raises(DataError, match="numbered holds no pictures"):
        stream(source=Numbered(0, 0))[0]


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
    pixels, found = crop(Image.new("RGB", size), (64, 64))
    assert pixels.shape == (3, 64, 64)
    assert found.tolist() == sizes


def test_the_crop_is_where_its_sizes_say():
    picture = Image.new("RGB", (129, 64))
    picture.putdata([(x, y, 0) for y in range(64) for x in range(129)])
    for mirror in (False, True):
        pixels, sizes = crop(picture, (64, 64), mirror=mirror)
        source = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture
        top, left = int(sizes[2]), int(sizes[3])
        assert ((pixels[:2, 0, 0] + 1) * 127.5).round().int().tolist() == list(source.getpixel((left, top)))[
            :2
        ]


def test_pixels_span_minus_one_to_one():
    pixels, _ = crop(Image.new("RGB", (8, 8), (255, 0, 0)), (8, 8))
    assert pixels[:, 0, 0].tolist() == [1, -1, -1]


def test_seeds_differ_by_use_place_and_run():
    seeds = {seed_at(run, use, place) for run in range(4) for use in Use for place in range(50)}
    assert len(seeds) == 4 * len(Use) * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_is_a_permutation():
    assert permutation(100, 7, Use.ORDER, 3).sort().values.tolist() == list(range(100))


def test_the_shapes_are_sdxls():
    """The table of the SDXL paper (arXiv 2307.01952, appendix I), of those up to 4:1 with no fewer pixels."""
    found = shapes(1024, 4)
    for size in ((512, 2048), (704, 1408), (832, 1216), (896, 1152), (1024, 1024), (1216, 832), (2048, 512)):
        assert size in found
    assert all(height * width <= 1024**2 and height % 64 == width % 64 == 0 for height, width in found)
    assert shapes(1024, 1) == [(1024, 1024)]


def test_a_picture_is_cut_to_the_shape_nearest_to_its_own():
    among = shapes(1024, 4)
    for size in ((1216, 832), (1000, 1000), (300, 100)):
        image = Image.new("RGB", size)
        height, width = nearest_shape(image, among)
        assert max(width / height / (size[0] / size[1]), height / width / (size[1] / size[0])) < 1.06
        pixels, sizes = crop(image, (height, width))
        assert pixels.shape == (3, height, width)
        assert sizes.tolist()[:2] == [size[1], size[0]]
        assert sizes.tolist()[4:] == [height, width]
