"""Sources: folders, parquet files, tars and the bundled emoji; and each way of having nothing to train on."""

import functools
import http.server
import io
import json
import os
import pickle
import shutil
import tarfile
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tdd_cli.data.captions import CAPTIONS
from tdd_cli.data.filters import parse
from tdd_cli.data.paths import expand
from tdd_cli.data.pictures import on_white
from tdd_cli.data.rejects import Reject
from tdd_cli.data.shards import contents
from tdd_cli.data.sources import Columns, count, open_source
from tdd_cli.errors import DataError, MissingComponent

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(colour="red", mode="RGB", size=(16, 12)):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def folder(path, pictures):
    path.mkdir()
    for name, content in pictures.items():
        (path / name).write_bytes(content)
    lines = [json.dumps({"file_name": name, "text": f"a picture called {name}"}) for name in pictures]
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return path


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def shard(path, *keys, start=0):
    members = {}
    for i, key in enumerate(keys, start):
        members |= {f"{key}.png": png((i, 0, 0)), f"{key}.txt": f"number {i}".encode()}
    return tar(path, members)


def caption(source, unit, index):
    return CAPTIONS[source.rule](source.read(unit, index).labels, GENERATOR)


def reason(source, index, unit=0):
    with pytest.raises(Reject) as rejected:
        source.read(unit, index)
    return rejected.value.reason


def test_an_image_folder(tmp_path):
    source = open_source(str(folder(tmp_path / "pictures", {"a.png": png(), "b.png": png("blue")})))
    assert count(source, 0) == 2
    assert source.read(0, 1).image.getpixel((0, 0)) == (0, 0, 255)
    assert caption(source, 0, 0) == "a picture called a.png"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_line_of_metadata_that_cannot_be_read_costs_one_picture(tmp_path, kind):
    """Bytes that are not UTF-8, no caption, no such picture, and half a line."""
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "b.png", "deep/c.png", "d.png"):
        (tmp_path / name).write_bytes(png())
    lines = {
        "csv": b"file_name,text,score\nd.png,caf\xe9,1\nb.png,two,7\ndeep/c.png,,7\nnone.png,four,\n",
        "jsonl": b'{"file_name": "d.png", "text": "caf\xe9"}\n{"file_name": "b.png", "text": ["two"]}\n'
        b'{"file_name": "deep/c.png", "text": null}\n{"file_name": "a.pn',
    }
    (tmp_path / f"metadata.{kind}").write_bytes(lines[kind])
    source = open_source(str(tmp_path))
    assert count(source, 0) == 4
    assert caption(source, 0, 1) == "two"
    reasons = [reason(source, index) for index in (0, 2, 3)]
    last = "no picture" if kind == "csv" else "no caption"
    assert reasons == ["unreadable caption", "no caption", last]
    if kind == "csv":
        assert count(open_source(str(tmp_path), Columns(where=parse(["score > 5"]))), 0) == 2


def test_metadata_of_a_split_and_without_what_is_needed(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(png())
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\na.png,{split}\n")
    for split in ("train", "test"):
        source = open_source(str(tmp_path), Columns(split=split))
        assert [caption(source, 0, i) for i in range(count(source, 0))] == [split]
    with pytest.raises(DataError, match="no column 'words'; it has image, text"):
        open_source(str(tmp_path), Columns(caption="words"))
    (tmp_path / "train" / "metadata.csv").write_text("name,text\na.png,a\n")
    with pytest.raises(DataError, match="no column 'file_name'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_caption_in_parquet_that_is_not_text_costs_one_picture(tmp_path, streaming):
    offsets = pa.py_buffer(b"\0\0\0\0\4\0\0\0\7\0\0\0")
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"caf\xe9two"))
    pq.write_table(pa.table({"image": [png()] * 2, "text": texts}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), streaming=streaming)
    assert caption(source, 0, 1) == "two"
    assert reason(source, 0) == "unreadable caption"


def test_a_folder_with_captions_beside_the_pictures(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text("a red rectangle\n")
    (tmp_path / "deep" / "b.png").write_bytes(png("blue"))
    (tmp_path / "deep" / "c.png").write_bytes(png("blue"))
    (tmp_path / "deep" / "c.txt").write_bytes(b"caf\xe9")
    source = open_source(str(tmp_path))
    assert count(source, 0) == 3
    assert caption(source, 0, 0) == "a red rectangle"
    assert [reason(source, 1), reason(source, 2)] == ["no caption", "unreadable caption"]


def test_a_parquet_file_with_its_own_column_names(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"jpg": [png(), png()], "words": ["one", "two"]}), path)
    source = open_source(str(path), Columns(image="jpg", caption="words"))
    assert source.read(0, 0).image.size == (16, 12)
    assert caption(source, 0, 1) == "two"


def test_several_parquet_files_and_several_captions(tmp_path):
    for i in range(3):
        pq.write_table(
            pa.table({"image": [png()], "text": [[f"one {i}", f"other {i}"]]}), tmp_path / f"p-{i:02}.parquet"
        )
    source = open_source(str(tmp_path / "p-{00..02}.parquet"))
    assert count(source, 0) == 3
    assert {caption(source, 0, 1) for _ in range(30)} == {"one 1", "other 1"}
    first = open_source(str(tmp_path / "p-*.parquet"), Columns(choice="first"))
    assert {caption(first, 0, 1) for _ in range(10)} == {"one 1"}


def test_thresholds_leave_out_and_count(tmp_path):
    path = tmp_path / "data.parquet"
    table = {"image": [png()] * 4, "text": list("abcd"), "score": [5.0, 6.0, None, 7.0], "mark": [0, 0, 0, 1]}
    pq.write_table(pa.table(table), path)
    source = open_source(str(path), Columns(where=parse(["score > 5.5", "mark<0.5"])))
    assert [caption(source, 0, i) for i in range(count(source, 0))] == ["b"]
    assert source.left_out == {"filtered": 3}
    with pytest.raises(DataError, match="none of 4 pictures passes"):
        open_source(str(path), Columns(where=parse(["score > 9"])))
    with pytest.raises(DataError, match="no column 'beauty'"):
        open_source(str(path), Columns(where=parse(["beauty > 9"])))


@pytest.mark.parametrize("text", ["score", "score = 5", "> 5", "score > high", "score > "])
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(ValueError, match="like|is not a number"):
        parse([text])


def test_small_pictures_are_left_out(tmp_path):
    pictures = {"a.png": png(size=(40, 20)), "b.png": png(size=(40, 40))}
    source = open_source(str(folder(tmp_path / "pictures", pictures)), Columns(min_size=30))
    assert reason(source, 0) == "too small"
    assert source.read(0, 1).image.size == (40, 40)


def test_the_bundled_emoji():
    source = open_source("bundled:emoji")
    assert count(source, 0) > 2000
    assert source.read(0, 0).image.size == (64, 64)
    assert len({caption(source, 0, 0) for _ in range(50)}) > 3


def test_transparency_is_laid_on_white():
    assert on_white(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert on_white(Image.new("L", (2, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("content", [b"not a picture", b"", png()[:10], png()[:40], png()[:50]])
def test_an_unreadable_picture_costs_one_sample_and_is_named(tmp_path, content):
    source = open_source(str(folder(tmp_path / "pictures", {"a.png": png(), "b.png": content})))
    assert source.read(0, 0)
    with pytest.raises(Reject, match=r"b\.png: (unreadable|no) picture"):
        source.read(0, 1)


# --- tars ---


def test_tars_by_path_star_braces_and_folder(tmp_path):
    for i in range(3):
        shard(tmp_path / f"s-{i:03}.tar", "a", "b", start=10 * i)
    for name in ("s-*.tar", "s-{000..002}.tar", "s-{000,001,002}.tar", ""):
        source = open_source(str(tmp_path / name))
        assert [count(source, unit) for unit in range(source.units)] == [2, 2, 2]
        assert caption(source, 2, 1) == "number 21"
        assert source.read(2, 1).image.getpixel((0, 0)) == (21, 0, 0)
    assert open_source(str(tmp_path / "s-001.tar")).units == 1


def test_a_tars_samples_take_captions_and_scores_from_json(tmp_path):
    metadata = [{"caption": "good", "title": "t", "aesthetic": 6}, {"caption": "bad", "aesthetic": 5}]
    members = {}
    for i, values in enumerate(metadata):
        members |= {f"deep/{i}.jpg": png(), f"deep/{i}.json": json.dumps(values).encode()}
    path = str(tar(tmp_path / "a.tar", {**members, "2.png": png(), "3.txt": b"words", "3.json": b"{"}))
    source = open_source(path, Columns(where=parse(["aesthetic > 5.5"])))
    assert caption(source, 0, 0) == "good"
    assert [reason(source, i) for i in (1, 2, 3)] == ["filtered", "filtered", "unreadable caption"]
    plain = open_source(path)
    assert reason(plain, 2) == "no caption"
    assert caption(open_source(path, Columns(caption="json.title")), 0, 0) == "t"


@pytest.mark.parametrize("where", ["header", "content", "end"])
def test_a_truncated_tar_costs_one_sample(tmp_path, where):
    path = shard(tmp_path / "a.tar", "a", "b", "c")
    places = list(contents(path)[-1][1].values())
    end = {"header": places[0][0] - 300, "content": places[0][0] + 20, "end": places[1][0] + 2}[where]
    path.write_bytes(path.read_bytes()[:end])
    source = open_source(str(path))
    found = [source.read(0, i).labels["captions"] for i in range(count(source, 0) - 1)]
    assert found == [["number 0"], ["number 1"]]
    assert reason(source, count(source, 0) - 1) == "truncated file"


def test_what_is_no_tar_costs_one_sample(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"nothing of the kind" * 100)
    source = open_source(str(tmp_path / "a.tar"))
    assert count(source, 0) == 1
    assert reason(source, 0) == "damaged file"


def test_a_tar_that_changed_is_looked_through_again(tmp_path):
    path = shard(tmp_path / "a.tar", "a")
    source = open_source(str(path))
    assert count(source, 0) == 1
    before = source.fingerprint()
    shard(path, "a", "b")
    os.utime(path, (0, 0))
    changed = open_source(str(path))
    assert count(changed, 0) == 2
    assert changed.fingerprint() != before


def test_a_source_travels_to_worker_processes(tmp_path):
    shard(tmp_path / "a.tar", "a")
    for source in (open_source(str(tmp_path / "a.tar")), open_source("bundled:emoji")):
        count(source, 0)
        assert pickle.loads(pickle.dumps(source)).read(0, 0).labels == source.read(0, 0).labels


def test_tars_behind_an_address_are_fetched_once(tmp_path):
    (tmp_path / "served").mkdir()
    shard(tmp_path / "served" / "a-0.tar", "a", "b")
    shard(tmp_path / "served" / "a-1.tar", "c", start=5)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            if self.command == "GET":
                asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = open_source(f"http://127.0.0.1:{server.server_port}/a-{{0..1}}.tar")
        assert [count(source, unit) for unit in range(2)] == [2, 1]
        assert caption(source, 1, 0) == "number 5"
        assert sorted(asked) == ["/a-0.tar", "/a-1.tar"]
        absent = open_source(f"http://127.0.0.1:{server.server_port}/b.tar")
        with pytest.raises(MissingComponent, match=r"b\.tar cannot be fetched"):
            count(absent, 0)
    finally:
        server.shutdown()
        server.server_close()


def test_braces_and_stars(tmp_path):
    assert expand("a-{008..011}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert expand("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    assert expand("https://host/a?b={1..2}") == ["https://host/a?b=1", "https://host/a?b=2"]
    assert expand(str(tmp_path / "*.none")) == []


# --- nothing to train on ---


def test_a_missing_column_lists_those_there_are(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"jpg": [png()], "text": ["one"]}), path)
    with pytest.raises(DataError, match="no column 'image'; it has jpg, text"):
        open_source(str(path))


def test_an_empty_folder_an_empty_table_and_no_file_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.png").write_bytes(png())
    with pytest.raises(DataError, match="pictures but no captions"):
        open_source(str(tmp_path / "empty"))
    nothing = pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())})
    pq.write_table(nothing, tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet"):
        open_source(str(tmp_path / "e.parquet"))
    for absent in ("absent.parquet", "absent-*.tar", "absent-{0..3}.tar"):
        with pytest.raises(DataError, match="there is no file"):
            open_source(str(tmp_path / absent))
    with pytest.raises(DataError, match="neither a folder"):
        open_source("./absent")


def test_a_file_that_is_not_parquet_is_said(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(str(tmp_path / "data.parquet"))


@pytest.mark.parametrize("name", ["a/0.tar.gz", "a/{0..9}.tgz", "https://host/0.tar.zst", "a.zip"])
def test_compressed_files_are_refused_as_such(name):
    with pytest.raises(DataError, match="compressed tars and other packed files") as refused:
        open_source(name)
    assert "Unpack them: " in refused.value.hint


def test_a_folder_of_compressed_tars_is_refused_as_such(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.tar.gz").touch()
    with pytest.raises(DataError, match="compressed tars"):
        open_source("a")


def test_a_file_of_another_kind_is_not_looked_for_on_the_hub(tmp_path):
    folder(tmp_path / "pictures", {"a.png": png()})
    with pytest.raises(DataError, match=r"'pictures/metadata\.jsonl' is neither a folder"):
        open_source("pictures/metadata.jsonl")


# --- what changes with the data ---


def test_the_fingerprint_is_of_names_below_the_folder_wherever_that_lies(tmp_path):
    for name in ("one/0", "two/1"):
        (tmp_path / "a" / name).parent.mkdir(parents=True)
        (tmp_path / "a" / name).with_suffix(".png").write_bytes(png())
        (tmp_path / "a" / name).with_suffix(".txt").write_text("words")
    for file in tmp_path.rglob("*.*"):
        os.utime(file, (1000, 1000))
    before = open_source("a").fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    assert open_source(str(tmp_path / "elsewhere" / "b")).fingerprint() == before
    for file in (tmp_path / "a" / "two").iterdir():
        file.rename(tmp_path / "a" / "one" / file.name)
    assert open_source("a").fingerprint() != before
