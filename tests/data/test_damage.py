"""What is damaged costs one sample and is counted; it never stops a run, nor takes its memory."""

import csv
import json
import tarfile

import numpy as np
import pytest
from PIL import Image, features

from sets_on_disk import encoded, picture, picture_folder, write_tar
from tdd_cli.data.filters import parse
from tdd_cli.data.pictures import crop, decode
from tdd_cli.data.rejects import Reject
from tdd_cli.data.sources import Columns, count, open_source
from tdd_cli.errors import DataError

PNG = encoded()


def outcomes(source):
    """The first caption of each sample of a source of one file, or why there is none."""
    found = []
    for index in range(count(source, 0)):
        try:
            found.append(source.read(0, index).labels["captions"][0])
        except Reject as reject:
            found.append(reject.reason)
    return found


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


# --- pictures ---


def of_unknown_pixels():
    """A DDS whose flags name no pixel format."""
    whole = bytearray(encoded(kind="DDS"))
    whole[80:84] = bytes(4)
    return bytes(whole)


def without_planes():
    """An AVIF whose media data are zeros."""
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    whole = encoded(kind="AVIF")
    start = whole.index(b"mdat") + 4
    return whole[:start] + bytes(len(whole) - start)


@pytest.mark.parametrize("content", [of_unknown_pixels, without_planes])
def test_whatever_a_decoder_raises_costs_one_sample(content):
    with pytest.raises(Reject, match="there: unreadable picture"):
        decode(content(), "there")


def test_too_little_memory_is_no_fault_of_the_picture(monkeypatch):
    def fail(file):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode(PNG, "there")


def scaled_whole(image, size):
    """The crop, as the middle of the whole picture scaled."""
    (rows, columns), scale = size, max(size[0] / image.height, size[1] / image.width)
    high, wide = max(rows, round(image.height * scale)), max(columns, round(image.width * scale))
    top, left = (high - rows) // 2, (wide - columns) // 2
    whole = image.resize((wide, high), Image.Resampling.LANCZOS)
    return np.array(whole.crop((left, top, left + columns, top + rows))).astype(int)


def bytes_of(pixels):
    return ((pixels + 1) * 127.5).round().int().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(1, 5000), (20_000, 2), (30, 1900), (900, 10)])
def test_a_strip_is_scaled_no_further_than_its_crop(size, monkeypatch):
    sizes, resize = [], Image.Image.resize
    image = picture(0, (min(size), min(size))).resize(size)

    def noted(self, size, *arguments, **keywords):
        sizes.append(size)
        return resize(self, size, *arguments, **keywords)

    monkeypatch.setattr(Image.Image, "resize", noted)
    found, told = crop(image, (48, 40))
    assert sizes == [(40, 48)]
    assert told.tolist()[:2] == [size[1], size[0]]
    monkeypatch.undo()
    assert np.abs(bytes_of(found) - scaled_whole(image, (48, 40))).max() <= 2


@pytest.mark.parametrize("size", [(72, 72), (640, 480), (100, 300), (500, 33), (40, 48)])
def test_other_pictures_are_scaled_whole_to_the_bit(size):
    image = picture(1, size)
    assert (bytes_of(crop(image, (48, 40))[0]) == scaled_whole(image, (48, 40))).all()


# --- lines of metadata ---


def metadata(folder, content, columns=None, *, kind="jsonl"):
    """What becomes of each line of a metadata file whose pictures are all there."""
    for name in "abc":
        (folder / f"{name}.png").write_bytes(PNG)
    (folder / f"metadata.{kind}").write_bytes(content)
    return outcomes(open_source(str(folder), columns))


GOOD = b'{"file_name": "b.png", "text": "two", "score": 7}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (rb'{"file_name": "a.png", "text": "\ud83d broken"}', "unreadable caption"),
        (rb'{"file_name": "a.png", "text": ["one", "\udc00"]}', "unreadable caption"),
        (b"[" * 100_000, "no caption"),
        (b'{"file_name": "a.png", "text": ' + b"[" * 100_000, "no caption"),
        (b'["a.png", "one"]', "no caption"),
        (rb'{"file_name": "\ud83d.png", "text": "one"}', "no picture"),
        (rb'{"file_name": "a\u0000.png", "text": "one"}', "no picture"),
    ],
)
def test_a_line_of_json_costs_no_more_than_its_picture(tmp_path, line, reason):
    assert metadata(tmp_path, GOOD + line + b"\n" + GOOD) == ["two", reason, "two"]


def test_a_number_too_large_for_one_passes_no_threshold(tmp_path):
    line = b'{"file_name": "a.png", "text": "one", "score": ' + b"9" * 400 + b"}\n"
    assert metadata(tmp_path, line + GOOD, Columns(where=parse(["score > 5"]))) == ["two"]


def test_a_quote_that_is_never_closed_is_said(tmp_path):
    folder = picture_folder(tmp_path / "pictures", 4)
    lines = (folder / "metadata.csv").read_text().splitlines()
    lines[2] = '001.png,"a dog'
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="a quote is opened in line 3 and never closed"):
        open_source(str(folder), Columns())
    lines[2] = '001.png,a 5" dog'  # no field begins with it
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    assert len(open_source(str(folder), Columns())) == 4


def test_fields_of_a_csv_may_be_of_any_length(tmp_path):
    long, before = b"x" * 200_000, csv.field_size_limit()
    content = b"file_name,text,boxes\na.png,one," + long + b"\nb.png," + long + b",\nc.png,three,\n"
    assert metadata(tmp_path, content, kind="csv") == ["one", long.decode(), "three"]
    assert csv.field_size_limit() == before


def test_a_line_of_csv_with_more_fields_than_names_is_read(tmp_path):
    content = b"file_name,text\na.png,one,more\nb\xe9.png,two\n"
    assert metadata(tmp_path, content, kind="csv") == ["one", "no picture"]


def test_a_picture_whose_name_is_not_utf8_costs_one_sample(tmp_path):
    try:
        for name in (b"a", b"caf\xe9"):
            with open(bytes(tmp_path) + b"/" + name + b".png", "wb") as file:
                file.write(PNG)
            with open(bytes(tmp_path) + b"/" + name + b".txt", "w") as file:
                file.write("words")
    except OSError:
        pytest.skip("this file system has no such names")
    source = open_source(str(tmp_path))
    assert outcomes(source) == ["words", "no caption"]
    assert len(source.fingerprint()) == 64


# --- tars ---


def members(*keys):
    found = {}
    for key in keys:
        found |= {f"{key}.png": PNG, f"{key}.txt": f"words of {key}".encode()}
    return found


def overwritten(path, damage, *names):
    """A tar with something else in place of these members' headers; a name's header is its last."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        for name in names:
            start = tar.getmember(name).offset_data - 512
            content[start : start + 512] = damage
    path.write_bytes(bytes(content))
    return path


DAMAGE = {"letters": b"x" * 512, "zeros": bytes(512), "a header's word": bytes(257) + b"ustar" + b"x" * 250}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("prefix", ["", "é" * 60], ids=["short", "long"])  # a long name is a header more
def test_damage_in_the_middle_of_a_tar_is_counted_and_read_past(tmp_path, damage, form, prefix):
    keys = [f"{prefix}{key}" for key in "abcdef"]
    path = write_tar(tmp_path / "a.tar", members(*keys), format=form)
    overwritten(path, damage, f"{keys[1]}.png", f"{keys[1]}.txt", f"{keys[3]}.txt")
    found = outcomes(open_source(str(path)))
    whole = [f"words of {keys[i]}" for i in (0, 2, 4, 5)]
    assert [one for one in found if one.startswith("words")] == whole
    assert found[-2:] == ["damaged file"] * 2
    assert set(found[:-2]) - set(whole) == {"no caption"}


@pytest.mark.parametrize("name", ["a.png", "c.txt"])
def test_damage_at_either_end_of_a_tar_is_counted(tmp_path, name):
    path = overwritten(write_tar(tmp_path / "a.tar", members(*"abc")), b"x" * 512, name)
    found = outcomes(open_source(str(path)))
    assert found.count("damaged file") == 1
    assert len([one for one in found if one.startswith("words")]) == 2


def test_a_hole_costs_what_was_in_it(tmp_path):
    """As a download in several parts leaves them."""
    path = write_tar(tmp_path / "a.tar", members(*"abcdef"))
    with tarfile.open(path) as tar:
        start, end = (tar.getmember(f"{key}.png").offset for key in "be")
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    words = [f"words of {key}" for key in "aef"]
    assert outcomes(open_source(str(path))) == [*words, "damaged file"]


def test_a_tar_without_its_end_is_counted(tmp_path):
    path = write_tar(tmp_path / "a.tar", members(*"abc"))
    with tarfile.open(path) as tar:
        end = tar.getmember("c.png").offset
    path.write_bytes(path.read_bytes()[:end])
    assert outcomes(open_source(str(path))) == ["words of a", "words of b", "truncated file"]


def test_nothing_is_missing_from_a_tar_with_comments_of_its_own(tmp_path):
    path = write_tar(tmp_path / "a.tar", members(*"ab"), pax_headers={"comment": "of the whole"})
    assert outcomes(open_source(str(path))) == ["words of a", "words of b"]


def test_captions_of_a_tar_that_are_no_text_cost_their_samples(tmp_path):
    captions = [rb'{"caption": "\ud83d broken"}', b"[" * 100_000, json.dumps({"caption": "good"}).encode()]
    found = {}
    for i, content in enumerate(captions):
        found |= {f"{i}.png": PNG, f"{i}.json": content}
    path = write_tar(tmp_path / "a.tar", found)
    assert outcomes(open_source(str(path))) == ["unreadable caption", "unreadable caption", "good"]
