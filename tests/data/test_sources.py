"""Sources: folders, parquet files and the bundled emoji; and each way of having nothing to train on."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tdd_cli.data.sources import on_white, open_source
from tdd_cli.errors import DataError, MissingComponent

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(colour="red", mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (16, 12), colour).save(file, "PNG")
    return file.getvalue()


def folder(path, pictures):
    path.mkdir()
    for name, content in pictures.items():
        (path / name).write_bytes(content)
    lines = [json.dumps({"file_name": name, "text": f"a picture called {name}"}) for name in pictures]
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return path


def test_an_image_folder(tmp_path):
    source = open_source(str(folder(tmp_path / "pictures", {"a.png": png(), "b.png": png("blue")})))
    assert len(source) == 2
    assert source.picture(1).getpixel((0, 0)) == (0, 0, 255)
    assert source.caption(0, GENERATOR) == "a picture called a.png"


def test_a_parquet_file_with_its_own_column_names(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"jpg": [png(), png()], "words": ["one", "two"]}), path)
    source = open_source(str(path), image_column="jpg", caption_column="words")
    assert source.picture(0).size == (16, 12)
    assert source.caption(1, GENERATOR) == "two"


def test_the_bundled_emoji():
    source = open_source("bundled:emoji")
    assert len(source) > 2000
    assert source.picture(0).size == (64, 64)
    assert {source.caption(0, GENERATOR) for _ in range(50)} >= {source.caption(0, GENERATOR)}


def test_transparency_is_laid_on_white():
    assert on_white(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert on_white(Image.new("L", (2, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_an_unreadable_picture_is_named(tmp_path):
    source = open_source(str(folder(tmp_path / "pictures", {"a.png": png(), "b.png": b"not a picture"})))
    assert source.picture(0)
    with pytest.raises(DataError, match=r"b\.png: the picture cannot be read"):
        source.picture(1)


@pytest.mark.parametrize("end", [10, 40, 50])
def test_a_truncated_picture_is_named(tmp_path, end):
    source = open_source(str(folder(tmp_path / "pictures", {"a.png": png()[:end]})))
    with pytest.raises(DataError, match=r"a\.png"):
        source.picture(0)


def test_a_missing_column_lists_those_there_are(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"jpg": [png()], "text": ["one"]}), path)
    with pytest.raises(DataError, match="no column 'image'; it has jpg, text"):
        open_source(str(path))


def test_an_empty_folder_an_empty_table_and_no_file_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        open_source(str(tmp_path / "empty"))
    nothing = pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())})
    pq.write_table(nothing, tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet"):
        open_source(str(tmp_path / "e.parquet"))
    with pytest.raises(DataError, match="there is no file"):
        open_source(str(tmp_path / "absent.parquet"))
    with pytest.raises(DataError, match="neither a folder"):
        open_source("./absent")


def test_a_file_that_is_not_parquet_is_said(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(str(tmp_path / "data.parquet"))


def test_an_absent_hub_is_a_missing_component():
    with pytest.raises(MissingComponent, match="the hub does not give it"):
        open_source("nobody/no-such-data")
