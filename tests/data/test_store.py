"""The cache on disk: written in parts, found again, refused where it is of something else; and its order."""

from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from tdd_cli.data.prompts import read_prompts
from tdd_cli.data.store import Entry, Store, cache_name, check_room
from tdd_cli.data.stored import ShapeOrder, Stored
from tdd_cli.errors import DataError


def entry(number):
    shape = (4, 2, 3) if number % 3 else (4, 3, 2)
    x0 = torch.full(shape, float(number))
    return Entry({"x0": x0, "sizes": torch.full((6,), float(number))}, {"captions": [f"é {number}"]})


def filled(folder, samples=10, key=None):
    store = Store(folder, key or {"of": "tests"}, samples=samples, per_part=4)
    for part, numbers in store.missing():
        store.write(part, [entry(n) for n in numbers if n != 5], {"too small": 1} if 5 in numbers else {})
    return store


def test_what_was_written_comes_back(tmp_path):
    contents = filled(tmp_path / "cache").load()
    kept = [n for n in range(10) if n != 5]
    assert len(contents) == len(kept)
    assert contents.left_out == {"too small": 1}
    for i, number in enumerate(kept):
        tensors, labels = contents.read(i, ["x0", "sizes"])
        assert torch.equal(tensors["x0"], entry(number).tensors["x0"])
        assert labels == {"captions": [f"é {number}"]}


def test_an_interrupted_cache_goes_on_with_the_part_that_is_missing(tmp_path):
    store = filled(tmp_path)
    store._index(1).unlink()
    again = Store(tmp_path, {"of": "tests"}, samples=10, per_part=4)
    assert again.missing() == [(1, range(4, 8))]


def test_a_cache_of_something_else_is_refused_saying_what_differs(tmp_path):
    filled(tmp_path, key={"data.resolution": 64, "flip": True})
    with pytest.raises(DataError, match=r"data\.resolution: 64 there, 32 here$"):
        Store(tmp_path, {"data.resolution": 32, "flip": True}, samples=10, per_part=4)
    assert cache_name("all", {"a": 1}) != cache_name("all", {"a": 2})


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_cache_file_is_named(tmp_path, content):
    contents = filled(tmp_path).load()
    if content is None:
        save_file({"other": torch.zeros(1)}, contents.files[0])
    else:
        contents.files[0].write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000\.safetensors cannot be read"):
        contents.read(0, ["x0"])


def test_too_small_a_disk_is_said_before_anything_is_made(tmp_path):
    check_room(tmp_path / "not" / "yet", 1000)
    with pytest.raises(DataError, match="needs about 1000000000"):
        check_room(tmp_path, 10**18)


def test_every_step_has_one_shape_and_every_sample_its_share():
    shapes = [(4, 8, 8)] * 50 + [(4, 4, 16)] * 13 + [(4, 16, 4)] * 3
    order = ShapeOrder(shapes, batch=8, seed=0)
    seen = Counter()
    for step in range(825):  # 100 epochs of 66 samples
        numbers = [order[step * 8 + row] for row in range(8)]
        assert len({shapes[number] for number in numbers}) == 1
        seen.update(numbers)
    assert set(seen) == set(range(66))
    assert max(seen.values()) - min(seen.values()) <= 8
    again = ShapeOrder(shapes, batch=8, seed=0)
    assert [again[row] for row in (3000, 17, 6599)] == [order[row] for row in (3000, 17, 6599)]


def test_rows_of_a_cache_are_batches(tmp_path):
    stream = Stored(filled(tmp_path).load(), cond=[], rule="first", flip=False, batch=2, seed=0)
    for row in range(20):
        batch = stream[row]
        number = int(batch.tensors["x0"].flatten()[0])
        assert batch.prompts == [f"é {number}"]
        assert batch.sizes.tolist() == [[number] * 6]
    with pytest.raises(DataError, match="every sample was left out"):
        Stored(
            Store(tmp_path / "b", {}, samples=0).load(), cond=[], rule="first", flip=False, batch=2, seed=0
        )


def test_prompts_from_text_csv_and_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.txt").write_text("\ufeffa fox\n\n  a tent \nä\n", "utf-8")
    (tmp_path / "a.csv").write_text('id,text\n1,"a fox, red"\n2,\n3,a tent\n')
    pq.write_table(pa.table({"words": ["a fox", None, "a tent"]}), tmp_path / "a.parquet")
    assert read_prompts(str(tmp_path / "a.txt")) == ["a fox", "a tent", "ä"]
    assert read_prompts(str(tmp_path / "a.csv")) == ["a fox, red", "a tent"]
    assert read_prompts(str(tmp_path / "a.parquet"), column="words") == ["a fox", "a tent"]
    assert len(set(read_prompts("bundled:emoji"))) > 1000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "a fox", "id": 1}\n\n{"id": 2}\n"a tent"\n{"text": null}\n'),
        ("a.json", '[{"text": "a fox"}, {"text": " "}, {"text": "a tent"}]'),
        ("a.json", '["a fox", "a tent"]'),
        ("a.tsv", "id\ttext\n1\ta fox\n2\ta tent\n"),
        ("a.csv", f"text,id\na fox,{'x' * 200_000}\na tent,2,more\n"),
        ("a.prompts", "a fox\na tent\n"),
    ],
)
def test_prompts_of_every_kind_of_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_prompts(str(tmp_path / name)) == ["a fox", "a tent"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "there is no file"),
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.txt", b"caf\xe9", "cannot be read"),
        ("a.csv", b"prompt\na fox\n", "no column 'text'; it has prompt"),
        ("a.parquet", b"nothing", "cannot be read"),
        ("a.jsonl", b'{"text": "a fox"}\n{"text": "a', "cannot be read: line 2: "),
        ("a.jsonl", b'{"prompt": "a fox"}\n', "no column 'text'; it has prompt"),
        ("a.jsonl", b'{"text": ["a fox"]}\n', r"\['a fox'\]\" is no prompt"),
        ("a.jsonl", rb'{"text": "\ud83d broken"}', "cannot be read: .* surrogates not allowed"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[]", "holds no prompts"),
        ("a.xlsx", b"PK\3\4\xff\xfe", r"a \.xlsx file is read as text, and this is none"),
        ("a.arrow", b"ARROW1\0\0", r"an? \.arrow file is read as text, and this is none"),
    ],
)
def test_unusable_prompt_files_are_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(str(tmp_path / name))
