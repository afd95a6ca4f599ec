"""Collecting evidence: shards that any number of processes make, once each."""

import pytest
import torch

from sets_on_disk import picture
from tdd_cli.errors import DataError
from tdd_cli.evaluation import collect
from tdd_cli.evaluation.collect import Wanted, fill, gather, shard_path
from tdd_cli.evaluation.networks import load_network
from tdd_cli.evaluation.subjects import Shot


class Counted:
    """A subject that counts what is asked of it; some rows cannot be read."""

    label = "counted"

    def __init__(self, *, unreadable=(), size=(32, 32)):
        self.rows, self.unreadable, self.size = [], set(unreadable), size

    def record(self):
        return {"kind": "test"}

    def shots(self, rows):
        for row in rows:
            self.rows.append(row)
            if row not in self.unreadable:
                yield Shot(row, picture(row, self.size), seconds=0.5)


@pytest.fixture(scope="module")
def network():
    return load_network("emoji")


def collected(subject, count, wanted, folder, **more):
    for _ in fill(subject, count, wanted, folder, shard=4, **more):
        pass
    return gather(count, wanted, folder, shard=4)


def test_two_processes_make_what_one_makes(network, tmp_path):
    wanted = Wanted([network])
    alone = collected(Counted(), 10, wanted, tmp_path / "one")
    first, second = Counted(), Counted()
    assert list(fill(first, 10, wanted, tmp_path / "two", shard=4, worker=(0, 2))) == [4, 6]
    assert list(fill(second, 10, wanted, tmp_path / "two", shard=4, worker=(1, 2))) == [4]
    together = gather(10, wanted, tmp_path / "two", shard=4)
    assert sorted(first.rows + second.rows) == list(range(10))
    assert torch.equal(alone.of(network), together.of(network))
    assert alone.rows.tolist() == list(range(10))


def test_what_is_there_is_not_made_again_and_what_is_damaged_is(network, tmp_path):
    subject, wanted = Counted(), Wanted([network])
    collected(subject, 6, wanted, tmp_path)
    collected(subject, 6, wanted, tmp_path)
    assert subject.rows == list(range(6))
    shard_path(tmp_path, range(4)).write_bytes(b"half a file")
    collected(subject, 8, wanted, tmp_path)  # and two more rows
    assert subject.rows[6:] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_unreadable_pictures_are_left_out_and_counted(network, tmp_path):
    found = collected(Counted(unreadable=[1, 4, 5, 6, 7]), 9, Wanted([network]), tmp_path)
    assert found.rows.tolist() == [0, 2, 3, 8]
    assert found.unreadable == 5
    assert len(found.of(network)) == 4
    assert set(found.samples) == {0, 2, 3}
    with pytest.raises(DataError, match="none of the pictures can be read"):
        collected(Counted(unreadable=range(3)), 3, Wanted([network]), tmp_path / "none")


def test_seconds_and_memory_are_of_one_environment(network, tmp_path):
    subject = Counted()
    untimed = collected(subject, 3, Wanted([network]), tmp_path)
    assert (untimed.seconds, untimed.peak) == (None, 0)
    first = collected(subject, 3, Wanted([network], timed="one"), tmp_path)
    assert first.seconds.tolist() == [0.5] * 3
    assert first.peak > 0
    assert subject.rows == [0, 1, 2] * 2
    collected(subject, 3, Wanted([network], timed="one"), tmp_path)
    assert subject.rows == [0, 1, 2] * 2
    other = collected(subject, 3, Wanted([network], pixels=True, timed="two"), tmp_path)
    assert subject.rows == [0, 1, 2] * 3
    assert other.seconds.tolist() == [0.5] * 3
    collected(subject, 3, Wanted([network], timed="three"), tmp_path)  # kept pictures cost nothing: not timed
    assert subject.rows == [0, 1, 2] * 4
    assert torch.equal(untimed.of(network), other.of(network))


def test_the_small_pictures_can_be_had_again(network, tmp_path):
    found = collected(Counted(), 3, Wanted([network]), tmp_path)
    again = collect.samples(tmp_path, 3)
    assert {row: image.tobytes() for row, image in again.items()} == {
        row: image.tobytes() for row, image in found.samples.items()
    }
    assert collect.samples(tmp_path / "absent", 3) == {}


def test_the_teachers_kept_pictures_serve_every_later_question(network, tmp_path):
    teacher = Counted()
    collected(teacher, 5, Wanted([network], pixels=True), tmp_path / "t")
    target = tmp_path / "t"
    itself = collected(teacher, 5, Wanted([network], target=target), tmp_path / "t")
    assert teacher.rows == list(range(5))
    assert itself.psnr.tolist() == [collect.BEST_PSNR] * 5
    other = collected(Counted(unreadable=[0]), 5, Wanted([network], target=target), tmp_path / "o")
    assert other.psnr.tolist() == [collect.BEST_PSNR] * 4


def test_psnr_is_that_of_bytes_and_of_one_teacher(network, tmp_path):
    class Dark(Counted):
        def shots(self, rows):
            for shot in super().shots(rows):
                yield Shot(shot.row, shot.image.point(lambda value: max(0, value - 5)))

    collected(Counted(), 2, Wanted([network], pixels=True), tmp_path / "a")
    collected(Dark(), 2, Wanted([network], pixels=True), tmp_path / "b")
    dark = Dark()
    found = collected(dark, 2, Wanted([network], target=tmp_path / "a"), tmp_path / "c")
    assert found.psnr.tolist() == pytest.approx([20 * torch.tensor(255 / 5).log10().item()] * 2, abs=0.3)
    found = collected(dark, 2, Wanted([network], target=tmp_path / "b"), tmp_path / "c")
    assert found.psnr.tolist() == [collect.BEST_PSNR] * 2


def test_pictures_of_other_sizes_than_the_teachers_are_refused(network, tmp_path):
    collected(Counted(size=(40, 40)), 2, Wanted([network], pixels=True), tmp_path / "t")
    with pytest.raises(DataError, match="the pictures are 32 x 32, the teacher's 40 x 40"):
        collected(Counted(), 2, Wanted([network], target=tmp_path / "t"), tmp_path / "o")
    assert list(tmp_path.glob("o/*")) == []


def test_pictures_are_written_only_when_asked_for_and_then_all(network, tmp_path):
    subject = Counted(unreadable=[])
    collected(subject, 3, Wanted([network]), tmp_path / "s")
    assert list(tmp_path.rglob("*.png")) == []
    saving = Wanted([network], save_to=tmp_path / "p")
    collected(subject, 3, saving, tmp_path / "s")
    collected(subject, 3, saving, tmp_path / "s")
    assert [path.name for path in sorted(tmp_path.rglob("*.png"))] == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    assert subject.rows == [0, 1, 2, 0, 1, 2]
