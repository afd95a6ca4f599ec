"""The named sets: which captions, which pictures, and what is said where they are not there."""

import hashlib
from dataclasses import replace

import pytest

from sets_on_disk import coco_folder, picture_folder
from tdd_cli.errors import DataError, MissingComponent, UsageError
from tdd_cli.evaluation import coco as coco_sets
from tdd_cli.evaluation.protocol import choose, frame
from tdd_cli.evaluation.sets import SETS, open_set


def test_coco_takes_one_caption_a_picture_by_a_rule_any_language_can_repeat(coco):
    found = open_set("coco30k", data=str(coco))
    order = sorted(range(1, 13), key=lambda i: hashlib.sha256(str(i).encode()).hexdigest())
    assert [int(text.split()[-1].rstrip(".")) for text in found.captions] == order
    assert all(text.startswith("A ") and text.endswith(".") for text in found.captions)  # of the smallest id
    assert found.reference.pictures.paths[0].name == f"COCO_val2014_{order[0]:012d}.jpg"


@pytest.mark.parametrize(
    ("name", "side", "n"), [("coco30k", 256, 30_000), ("coco10k", 512, 10_000), ("coco2k", 256, 2_000)]
)
def test_coco_2014_sets_share_captions_and_differ_in_number_and_size(coco, name, side, n):
    found = open_set(name, data=str(coco))
    assert (found.side, found.n) == (side, n)
    assert found.captions == open_set("coco30k", data=str(coco)).captions


def test_coco5k_is_of_2017(tmp_path):
    found = open_set("coco5k", data=str(coco_folder(tmp_path / "c17", 3, year=2017)))
    assert (found.n, len(found.captions)) == (5_000, 3)


def test_a_small_coco_is_used_with_n_only_and_says_that_it_is_not_comparable(coco):
    found = open_set("coco30k", data=str(coco))
    with pytest.raises(DataError, match=r"needs 30,000 captions, and there are 12") as caught:
        choose(found, None)
    assert "--n 12" in caught.value.hint


def test_a_picture_replaced_by_another_of_the_same_size_is_another_reference(coco, photos):
    for name, folder in (("coco30k", coco / "val2014"), (f"folder:{photos}", photos)):
        data = str(coco) if name == "coco30k" else None
        before = open_set(name, data=data).reference.sha256
        path = sorted(folder.glob("*.[jp][pn]g"))[3]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert open_set(name, data=data).reference.sha256 != before


def test_coco_is_found_wherever_the_year_is(coco, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where coco/ has 2014 alone
    coco_folder(cache / "coco", 3, year=2017)
    assert len(open_set("coco5k").captions) == 3
    assert len(open_set("coco30k").captions) == 12


def test_pictures_that_cannot_be_decoded_are_data_errors_of_every_kind_of_set(coco, photos, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # a bomb is what has twice as many
    for name, data in (("coco30k", str(coco)), (f"folder:{photos}", None)):
        with pytest.raises(DataError, match="unreadable picture"):
            open_set(name, data=data).reference.pictures.picture(0)


def test_a_folder_without_captions_says_what_it_lacks(photos):
    (photos / "metadata.csv").unlink()
    with pytest.raises(DataError, match="holds pictures but no captions$"):
        open_set(f"folder:{photos}")


def test_without_coco_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingComponent) as caught:
        open_set("coco30k")
    assert "nor" in caught.value.message
    for part in (
        "val2014.zip",
        "coco/val2014/*.jpg",
        "coco/annotations/captions_val2014.json",
        "--data coco",
    ):
        assert part in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "val2014" / "COCO_val2014_000000000003.jpg").unlink(),
            "1 of 12 pictures are missing",
        ),
        (lambda root: (root / "annotations" / "captions_val2014.json").unlink(), "is missing"),
        (
            lambda root: (root / "annotations" / "captions_val2014.json").write_text("[]"),
            "not COCO's caption file",
        ),
        (
            lambda root: (root / "annotations" / "captions_val2014.json").write_text("{"),
            "not COCO's caption file",
        ),
    ],
)
def test_a_damaged_coco_is_refused(coco, damage, message):
    damage(coco)
    with pytest.raises(DataError, match=message):
        open_set("coco30k", data=str(coco))


def test_coco_of_the_hub_has_the_same_order_and_pictures(coco, monkeypatch):
    from datasets import Dataset

    ours = open_set("coco30k", data=str(coco))
    rows = [
        {"image": str(path), "answer": [caption, "another"], "file_name": path.name}
        for path, caption in zip(ours.reference.pictures.paths, ours.captions, strict=True)
    ]
    from datasets import Image as ImageFeature

    table = Dataset.from_list(list(reversed(rows))).cast_column("image", ImageFeature())
    monkeypatch.setattr(coco_sets, "from_hub", lambda repo, split: table)
    theirs = open_set("coco30k", data="someone/coco")
    assert theirs.captions == ours.captions
    assert theirs.reference.pictures.picture(5).tobytes() == ours.reference.pictures.picture(5).tobytes()


def test_parti_prompts_are_read_from_the_published_table(tmp_path):
    (tmp_path / "PartiPrompts.tsv").write_text('Prompt\tCategory\na "fox"\tAnimals\nbond\tAbstract\n')
    found = open_set("parti", data=str(tmp_path))
    assert found.captions == ('a "fox"', "bond")
    assert found.reference is None


def test_parti_prompts_that_are_nowhere(tmp_path):
    with pytest.raises(MissingComponent, match="neither at") as caught:
        open_set("parti")
    assert "PartiPrompts.tsv" in caught.value.hint


def test_emoji_pictures_and_captions_are_of_the_same_things():
    found = open_set("emoji")
    assert len(found.captions) == len(found.reference.pictures) == 2_419
    assert found.reference.pictures.picture(0).size == (64, 64)
    assert len(set(found.captions[:100])) > 90  # in no order of things or styles


def test_a_folder_has_its_own_captions_and_order(photos):
    found = open_set(f"folder:{photos}")
    assert found.captions[:3] == ("a fox", "a dog", "a cat")
    assert len(found.reference.pictures) == 12


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("coco3k", UsageError, "did you mean"),
        ("folder:absent", DataError, "there is no folder absent"),
    ],
)
def test_unknown_sets(name, error, message):
    with pytest.raises(error, match=message):
        open_set(name)


def test_only_folders_are_resized_at_will():
    with pytest.raises(UsageError, match="own picture size"):
        open_set("emoji", side=32)
    assert "emoji" in SETS


def test_the_protocols_hash_tells_apart_whatever_changes_a_figure(photos):
    found = open_set(f"folder:{photos}")
    same = choose(open_set(f"folder:{photos}"), 12)
    assert choose(found, 12).sha256 == same.sha256
    for other in (
        choose(found, 11),
        choose(found, 12, seed=1),
        choose(replace(found, side=64), 12),
        choose(replace(found, captions=(*found.captions[1:], "x")), 12),
        choose(replace(found, prefix="A photo of "), 12),
        choose(replace(found, reference=replace(found.reference, sha256="0")), 12),
        choose(replace(found, version=2), 12),
    ):
        assert other.sha256 != same.sha256


def test_frames_are_the_middle_square(tmp_path):
    folder = picture_folder(tmp_path / "wide", 1, size=(48, 32))
    image = open_set(f"folder:{folder}").reference.pictures.picture(0)
    assert frame(image, None) is image
    assert frame(image, 32).tobytes() == image.crop((8, 0, 40, 32)).tobytes()
    assert frame(image, 64).size == (64, 64)
