"""Streamed parquet: rows by row group, the same wherever one starts; copies that come and go."""

import io
import os
import time
from collections import Counter
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tdd_cli.data import remote, shards
from tdd_cli.data.batches import Pictures, batches
from tdd_cli.data.filters import parse
from tdd_cli.data.hub import hub_name, is_hub
from tdd_cli.data.order import Order
from tdd_cli.data.rejects import Reject, tally
from tdd_cli.data.remote import fetch, kept
from tdd_cli.data.sources import Columns, Piece, count, open_source
from tdd_cli.errors import DataError, MissingComponent


def png(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, number, number)).save(file, "PNG")
    return file.getvalue()


def table(numbers, struct=True):
    pictures = [{"bytes": png(n), "path": f"{n}.png"} if struct else png(n) for n in numbers]
    texts = [f"number {n}" for n in numbers]
    return pa.table({"image": pictures, "text": texts, "score": [float(n % 4) for n in numbers]})


def files(folder, *sizes, rows=3):
    """Files of so many numbered pictures, in row groups of three."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for i, size in enumerate(sizes):
        numbers = range(first, first + size)
        pq.write_table(table(numbers, struct=i % 2 == 0), folder / f"p-{i:03}.parquet", row_group_size=rows)
        first += size
    return str(folder / "p-*.parquet")


def streamed(pattern, tmp_path, columns=None, **keywords):
    return open_source(pattern, columns, streaming=True, folder=tmp_path / "kept", **keywords)


def stream(source, seed=0):
    return Pictures(source, resolution=8, flip=False, seed=seed)


def numbers(batch):
    return [int(prompt.removeprefix("number ")) for prompt in batch.prompts]


def grey(batch):
    return ((batch.tensors["pixels"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_rows_are_read_where_they_are(tmp_path):
    source = streamed(files(tmp_path / "data", 7, 2), tmp_path)
    assert [piece.size for piece in source.pieces(0)] == [3, 3, 1]
    assert [count(source, unit) for unit in range(source.units)] == [7, 2]
    found = [source.read(unit, i) for unit in range(2) for i in range(count(source, unit))]
    assert [sample.labels["captions"] for sample in found] == [[f"number {n}"] for n in range(9)]
    assert [sample.image.getpixel((0, 0))[0] for sample in found] == list(range(9))


def test_every_epoch_shows_every_picture_once_and_any_row_can_be_asked_for(tmp_path):
    source = streamed(files(tmp_path / "data", *range(2, 14)), tmp_path)
    total = sum(range(2, 14))
    ranges = [range(total), range(total, 2 * total)]
    first, second = batches(stream(source), iter(ranges))
    assert sorted(numbers(first)) == sorted(numbers(second)) == list(range(total))
    assert numbers(first) != numbers(second)
    assert grey(first) == numbers(first)
    fresh = stream(streamed(str(tmp_path / "data" / "p-*.parquet"), tmp_path))
    for row in (total + 7, 3, total - 1, 2 * total - 1):
        assert numbers(fresh[row]) == [(numbers(first) + numbers(second))[row]]


def test_workers_draw_the_same_rows(tmp_path):
    ranges = [range(i, i + 4) for i in range(0, 24, 4)]
    here, elsewhere = (
        list(batches(stream(streamed(files(tmp_path / "data", 9, 8), tmp_path)), iter(ranges), workers=n))
        for n in (0, 2)
    )
    assert [batch.prompts for batch in here] == [batch.prompts for batch in elsewhere]


def test_pieces_of_many_files_are_mixed(tmp_path):
    """Eight row groups at a time, of eight files at a time: neighbours of a file come far apart."""
    order = Order(streamed(files(tmp_path / "data", *[30] * 8), tmp_path), seed=0)
    places = [next(order.candidates(row)) for row in range(240)]
    assert len(set(places)) == 240
    assert len({unit for unit, _ in places[:24]}) > 3
    assert len({index // 3 for unit, index in places[:24]}) > 3


def test_thresholds_are_asked_of_the_scores_alone_and_counted_once_an_epoch(tmp_path):
    pattern = files(tmp_path / "data", 10, 10, 9)
    source = streamed(pattern, tmp_path, Columns(where=parse(["score > 2.5"])))
    assert source.pieces(0) == [Piece(0, 3), Piece(1, 2), Piece(1, 2), Piece(0, 1)]
    shown = [stream(source)[row] for row in range(14)]
    assert sorted(numbers(batch)[0] for batch in shown[:7]) == [3, 7, 11, 15, 19, 23, 27]
    for epoch in (shown[:7], shown[7:]):
        assert tally(reject for batch in epoch for reject in batch.left_out) == {"filtered": 22}
    with pytest.raises(DataError, match="none of 29 pictures passes"):
        stream(streamed(pattern, tmp_path, Columns(where=parse(["score > 3"]))))[0]
    with pytest.raises(DataError, match=r"no column 'beauty'; it has image, text, score"):
        streamed(pattern, tmp_path, Columns(where=parse(["beauty > 3"])))


def test_the_search_for_a_picture_that_passes_ends(monkeypatch):
    monkeypatch.setattr("tdd_cli.data.order.NONE", 500)
    looked = []

    def pieces(unit):
        looked.append(unit)
        return [Piece(0, 100)]

    source = SimpleNamespace(name="far away", units=10**4, pieces=pieces)
    with pytest.raises(DataError, match="far away: none of 800 pictures passes"):
        next(Order(source, seed=0).candidates(0))
    assert len(looked) == 8


def test_a_damaged_file_costs_its_samples_and_not_the_run(tmp_path):
    pattern = files(tmp_path / "data", 6, 6, 6)
    (tmp_path / "data" / "p-000.parquet").write_bytes(b"nothing of the kind")
    whole = (tmp_path / "data" / "p-001.parquet").read_bytes()
    spoilt = bytearray(whole)
    second = pq.ParquetFile(tmp_path / "data" / "p-001.parquet").metadata.row_group(1).column(0)
    spoilt[second.data_page_offset : second.data_page_offset + 40] = bytes(40)
    (tmp_path / "data" / "p-001.parquet").write_bytes(bytes(spoilt))
    source = streamed(pattern, tmp_path)
    assert [count(source, unit) for unit in range(3)] == [1, 6, 6]
    shown = [stream(source)[row] for row in range(13)]
    assert set().union(*map(numbers, shown)) == {6, 7, 8, *range(12, 18)}
    left_out = Counter(reject.where for batch in shown for reject in batch.left_out)
    assert {path.rpartition("-")[2] for path in left_out} == {"000.parquet", "001.parquet"}
    for name in ("p-001.parquet", "p-002.parquet"):
        (tmp_path / "data" / name).write_bytes(b"nor this")
    with pytest.raises(DataError, match="cannot be read"):
        streamed(pattern, tmp_path)


def test_what_is_wrong_with_one_row_is_said(tmp_path):
    (tmp_path / "data").mkdir()
    rows = {"image": [png(0), b"no picture", None, png(3)], "text": ["a", "b", "c", " "]}
    pq.write_table(pa.table(rows), tmp_path / "data" / "p.parquet")
    source = streamed(str(tmp_path / "data"), tmp_path)
    reasons = []
    for index in range(1, 4):
        with pytest.raises(Reject) as rejected:
            source.read(0, index)
        reasons.append(rejected.value.reason)
    assert reasons == ["unreadable picture", "no picture", "no caption"]


# --- addresses ---


@pytest.fixture
def far(tmp_path):
    """Two parquet files in fsspec's memory; their addresses."""
    files(tmp_path / "near", 5, 4)
    system = fsspec.filesystem("memory")
    paths = []
    for path in sorted((tmp_path / "near").iterdir()):
        paths.append(f"memory://{tmp_path.name}/{path.name}")
        with system.open(paths[-1], "wb") as file:
            file.write(path.read_bytes())
    yield paths
    system.rm(f"memory://{tmp_path.name}", recursive=True)


def test_parquet_behind_an_address(far, tmp_path):
    source = streamed(far[0].replace("000", "{000..001}"), tmp_path)
    assert sorted(numbers(stream(source)[row])[0] for row in range(9)) == list(range(9))
    assert source.fingerprint() != streamed(far[0], tmp_path).fingerprint()
    with pytest.raises(MissingComponent, match="cannot be fetched"):
        streamed(far[0].replace("000", "999"), tmp_path)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Nobody is asked whether it is there."""
    monkeypatch.setattr("tdd_cli.families.hub.hub_answers", lambda: False)


class Builder:
    """What `datasets` makes of a data set on the hub, its files as given."""

    def __init__(self, **splits):
        self.config = SimpleNamespace(data_files=splits)


def test_a_hub_data_set_is_streamed_from_the_files_it_is_made_of(far, tmp_path, monkeypatch):
    asked = []

    def load_dataset_builder(name, revision=None):
        asked.append((name, revision))
        return Builder(train=far, test=["memory://x.csv"])

    monkeypatch.setattr("datasets.load_dataset_builder", load_dataset_builder)
    source = streamed("owner/pictures@abc", tmp_path)
    assert asked == [("owner/pictures", "abc")]
    assert [count(source, unit) for unit in range(2)] == [5, 4]
    with pytest.raises(DataError, match="no split 'valid'; it has train, test"):
        streamed("owner/pictures", tmp_path, Columns(split="valid"))
    with pytest.raises(DataError, match=r"other files than parquet or tar \(memory://x\.csv\)"):
        streamed("owner/pictures", tmp_path, Columns(split="test"))


def test_datasets_finds_the_files_of_a_set_in_the_hubs_layout(tmp_path, monkeypatch):
    """The real builder, on a folder: what it does of a repository, less the network."""
    from datasets import load_dataset_builder

    files(tmp_path / "set" / "data", 5, 4)
    for i, path in enumerate(sorted((tmp_path / "set" / "data").iterdir())):
        path.rename(path.with_name(f"train-{i:05}-of-00002.parquet"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        "datasets.load_dataset_builder", lambda name, revision: load_dataset_builder(str(tmp_path / "set"))
    )
    source = streamed("owner/set", tmp_path)
    assert [count(source, unit) for unit in range(source.units)] == [5, 4]


def test_hub_ids():
    assert is_hub("owner/name")
    assert is_hub("owner/name@refs/convert/parquet")
    assert hub_name("owner/name@refs/convert/parquet") == ("owner/name", "refs/convert/parquet")
    assert not any(map(is_hub, ("./a", "/a/b", "~/a", "a", "a/b/c", "hf://a")))


# --- copies ---


def test_a_copy_is_made_once_and_the_oldest_go_when_there_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "NEWEST", 3)
    made = []

    def copy(i, room=250.0):
        def make(to):
            made.append(i)
            to.write_bytes(bytes(50))

        path = kept(tmp_path / f"{i}.arrow", make, room=room)
        os.utime(path, (i, i + 10 * len(made)))
        return path

    for i in (0, 1, 0, 2, 3, 4):
        assert copy(i).stat().st_size == 50
    assert made == [0, 1, 2, 3, 4]
    copy(0)
    copy(5)
    assert sorted(path.stem for path in tmp_path.glob("*.arrow")) == ["0", "2", "3", "4", "5"]
    copy(6, room=0)
    assert len(list(tmp_path.glob("*.arrow"))) == 3
    half = tmp_path / ".7.partial-1.arrow"
    half.touch()
    os.utime(half, (time.time() - 7200,) * 2)
    copy(8)
    assert not half.exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path):
    def fail(to):
        to.write_bytes(b"half")
        raise MissingComponent("gone", hint="wait")

    with pytest.raises(MissingComponent):
        kept(tmp_path / "a.tar", fail, room=0)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_only_so_many_fetched_tars_stay_and_none_is_fetched_to_be_counted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "NEWEST", 2)
    fetched = []

    def download(address, to):
        fetched.append(address)
        to.write_bytes(bytes(1024))

    monkeypatch.setattr(remote, "_download", download)
    monkeypatch.setattr(shards, "contents", lambda path: [("a", {})])
    for _ in range(2):
        source = open_source("http://far/{0..4}.tar", folder=tmp_path, room=3000)
        assert sum(count(source, unit) for unit in range(5)) == 5
    assert len(fetched) == 5
    assert len(list((tmp_path / "fetched").glob("*.tar"))) == 2
    assert fetch("http://far/4.tar", tmp_path / "fetched", room=3000).is_file()
    assert len(fetched) == 5
