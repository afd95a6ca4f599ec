"""No file is ever half-written."""

import pytest

from tdd_cli.files import replacing, write_atomic


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert file.read_text() == "old"
    write_atomic(file, b"new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(FileNotFoundError), replacing(file):
        pass
    assert file.read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "step-1"
    for text in ("old", "new"):
        with replacing(folder) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / "state").write_text(text)
    assert (folder / "deep" / "state").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_the_partial_file_keeps_its_suffix(tmp_path):
    with replacing(tmp_path / "picture.png") as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"x")
