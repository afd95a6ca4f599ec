"""Files by their content: told apart whatever their size and name, and read once."""

import os

import pytest

from tdd_cli.evaluation import identity
from tdd_cli.evaluation.identity import contents_hash, fingerprint


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    (place / "inner").mkdir(parents=True)
    (place / "a.png").write_bytes(b"one")
    (place / "inner" / "b.png").write_bytes(b"two")
    return place


def test_another_content_of_the_same_size_is_another_folder(folder):
    before = fingerprint(folder)
    (folder / "a.png").write_bytes(b"uno")
    assert fingerprint(folder) != before


def test_a_copy_elsewhere_at_another_time_is_the_same(folder, tmp_path):
    copy = tmp_path / "copy"
    (copy / "inner").mkdir(parents=True)
    for name in ("inner/b.png", "a.png"):
        (copy / name).write_bytes((folder / name).read_bytes())
        os.utime(copy / name, (1, 1))
    (copy / ".hidden").write_bytes(b"a file manager's")
    assert fingerprint(copy) == fingerprint(folder)
    (copy / "a.png").rename(copy / "c.png")
    assert fingerprint(copy) != fingerprint(folder)


def test_a_file_is_what_it_holds_and_not_what_it_is_called(folder):
    (folder / "c.png").write_bytes(b"one")
    assert fingerprint(folder / "c.png") == fingerprint(folder / "a.png")
    assert fingerprint(folder / "c.png") != fingerprint(folder / "inner" / "b.png")


def test_contents_are_read_once_until_a_file_changes(folder, monkeypatch):
    files, read = sorted(folder.rglob("*.png")), []
    real = identity.file_hash
    monkeypatch.setattr(identity, "file_hash", lambda path: read.append(path.name) or real(path))
    first = contents_hash(files, folder)
    assert contents_hash(files, folder) == first
    assert read == ["a.png", "b.png"]
    os.utime(files[0], (5, 5))
    assert contents_hash(files, folder) == first
    assert read == ["a.png", "b.png", "a.png", "b.png"]
    assert contents_hash(files[::-1], folder) != first
