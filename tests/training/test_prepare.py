"""Filling a cache: counted by the batch, kept by the part."""

import pytest
import torch

from sets_on_disk import picture
from tdd_cli.data.sources import Columns, open_source
from tdd_cli.data.store import Entry, Store
from tdd_cli.families import load_family
from tdd_cli.training.prepare import Part, draw_latents, encode_pictures, fill

COLUMNS = Columns(image="image", caption="text", split="train")


def of_two(numbers):
    """Two samples at a time, every fifth of which cannot be used."""
    for first in range(numbers.start, numbers.stop, 2):
        part = Part()
        for n in range(first, min(first + 2, numbers.stop)):
            if n % 5 == 4:
                part.left_out["unreadable picture"] += 1
            else:
                part.entries.append(Entry({"x0": torch.full((1, 2, 2), float(n))}, {"captions": [str(n)]}))
        yield part


def store(folder):
    return Store(folder, {"data.source": "here"}, samples=10, per_part=4)


def test_the_samples_of_every_batch_are_counted(tmp_path):
    assert list(fill(store(tmp_path), of_two)) == [2, 2, 2, 2, 2]
    contents = store(tmp_path).load()
    assert [contents.read(n, ["x0"])[0]["x0"][0, 0, 0] for n in range(8)] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert contents.left_out == {"unreadable picture": 2}


def test_whole_parts_are_kept_and_the_one_under_way_is_made_again(tmp_path):
    made = fill(store(tmp_path), of_two)
    for _ in range(4):  # the last of them is of the second part, which is not written yet
        next(made)
    made.close()
    assert [part for part, _ in store(tmp_path).missing()] == [1, 2]
    assert sum(fill(store(tmp_path), of_two)) == 6


def test_processes_share_the_parts(tmp_path):
    assert [sum(fill(store(tmp_path), of_two, process=one, processes=2)) for one in range(2)] == [6, 4]


@pytest.fixture
def family(tiny_folders):
    return load_family("sdxl", str(tiny_folders["sdxl"]))


def test_teachers_latents_come_by_the_batch(family):
    parts = draw_latents(
        family, ["a fox", "the sun"], range(1, 6), per_prompt=3, size=(32, 32), steps=1, guidance=1.0, seed=0,
        text=False, dtype=torch.float32, batch=2,
    )  # fmt: skip
    captions = [[entry.labels["captions"][0] for entry in part.entries] for part in parts]
    assert captions == [["a fox", "a fox"], ["the sun", "the sun"], ["the sun"]]


def test_pictures_come_by_the_batch_with_those_left_out(family, tmp_path):
    for i in range(5):
        picture(i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"a fox {i}")
    (tmp_path / "4.png").write_bytes(b"no picture")
    parts = list(
        encode_pictures(
            family, open_source(str(tmp_path), COLUMNS), range(5), shapes=[(32, 32)], flip=False, text=False,
            dtype=torch.float32, batch=2,
        )
    )  # fmt: skip
    assert [part.samples for part in parts] == [2, 3]
    assert [len(part.entries) for part in parts] == [2, 2]
