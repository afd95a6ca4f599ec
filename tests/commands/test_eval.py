"""tdd eval, as typed."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from sets_on_disk import coco_folder, picture, picture_folder
from tdd_cli.cli import app
from tdd_cli.errors import DataError, Interrupted, MissingComponent, UsageError
from tdd_cli.evaluation import collect, inception, networks, sets, subjects
from tdd_cli.evaluation.results import Result
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.inference import Inference
from tiny import _tokenizer, _vocabulary


def call(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working folder and cache, no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def student(tiny_folders, tmp_path_factory):
    """An adapter that changes something, with inference.json beside it."""
    folder = tmp_path_factory.mktemp("student")
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    parameters = add_lora(family.net, family.lora_targets, rank=2)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    save_lora(family.net, folder / "adapter.safetensors", {})
    Inference(
        family="sdxl", model=str(tiny_folders["sdxl"]), method="tdd", teacher_grid=250, k_min=1, k_max=8,
        resolution=32, steps=2, guidance=1.0, eta=0.0, schedule="equal", clip_x0=0,
    ).save(folder / "inference.json")  # fmt: skip
    return folder / "adapter.safetensors"


@pytest.fixture
def photos(tmp_path):
    return picture_folder(tmp_path / "photos", 12)


@pytest.fixture
def inception_file(tmp_path, monkeypatch):
    """Weights of the right shape, taken for the published ones."""
    path = tmp_path / "inception.pth"
    torch.manual_seed(0)
    torch.save(inception.Inception().state_dict(), path)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_everything_at_once_and_a_second_time_for_nothing(student, photos, tmp_path, monkeypatch):
    arguments = (
        "--lora", student, "--set", f"folder:{photos}", "--metric", "fid,kid,clip,teacher,speed",
        "--features", "emoji", "--steps", "1-2", "--guidance", "1,2", "--against", "teacher",
        "--teacher-steps", 3, "--teacher-guidance", 2, "--out", "out",
    )  # fmt: skip
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    result = Result.load(tmp_path / "out" / "eval.json")
    settings = [
        (entry.label, entry.sampling["steps"], entry.sampling["guidance"]) for entry in result.entries
    ]
    assert settings == [("teacher", 3, 2), *(("student0", k, g) for k in (1, 2) for g in (1, 2))]
    teacher, first, guided, *_ = result.entries
    assert teacher.baseline
    assert teacher.figures["distance"].value == 0
    assert teacher.figures["psnr"].value == collect.BEST_PSNR
    assert first.figures["distance"].value > 0
    assert [entry.figures["calls"].value for entry in (teacher, first, guided)] == [6, 1, 2]
    assert all(math.isfinite(f.value) for entry in result.entries for f in entry.figures.values())
    assert first.figures["kid"].low < first.figures["kid"].value < first.figures["kid"].high
    assert "FID" in done.stdout
    assert "student0" in done.stdout
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png") == 5 * collect.SAMPLES

    def unneeded(*_, **__):
        raise AssertionError("this was done before")

    monkeypatch.setattr(networks.Network, "of", unneeded)
    monkeypatch.setattr("tdd_cli.evaluation.subjects.load", unneeded)
    again = call(*arguments, "--json")
    assert again.exit_code == 0, again.output
    old = {key: value for key, value in json.loads(result.dumps()).items() if key != "created"}
    assert {key: value for key, value in json.loads(again.stdout).items() if key != "created"} == old


def test_an_interrupted_evaluation_goes_on_where_it_stopped(student, tmp_path, monkeypatch):
    drawn, real = [], subjects.generate

    def generate(family, prompts, seeds, *more, **settings):
        drawn.append((seeds[0], len(seeds)))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        yield from real(family, prompts, seeds, *more, **settings)

    monkeypatch.setattr(subjects, "generate", generate)
    many = picture_folder(tmp_path / "many", 2 * collect.SHARD + 2)
    arguments = (
        "--lora",
        student,
        "--set",
        f"folder:{many}",
        "--metric",
        "fid",
        "--features",
        "emoji",
        "--seed",
        9,
    )
    stopped = call(*arguments)
    assert isinstance(stopped.exception, Interrupted)
    assert call(*arguments).exit_code == 0
    assert drawn == [(9, 64), (73, 64), (73, 64), (137, 2)]


def test_fid_on_a_folder_in_cocos_layout_is_scipys(student, inception_file, tmp_path):
    coco = coco_folder(tmp_path / "coco", 10)
    done = call(
        "--metric", "fid", "--set", "coco30k", "--data", coco, "--n", 10, "--lora", student, "--inception",
        inception_file, "--save-pictures", "--out", "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = Result.load(tmp_path / "out" / "eval.json")
    assert "not comparable with published figures" in " ".join(result.remarks)
    ours, theirs = (kept_features(folder) for folder in (tmp_path / "out" / "shards", tmp_path / "cache"))
    net = inception.load(inception_file)
    first = coco / "val2014" / f"COCO_val2014_{coco_order(10)[0]:012d}.jpg"
    for path, features in ((min((tmp_path / "out" / "pictures").rglob("*.png")), ours), (first, theirs)):
        assert features[0] == pytest.approx(by_hand(net, path), rel=1e-3, abs=1e-5)
    basis = np.linalg.qr(np.concatenate([ours, theirs]).T)[0]  # all of it, in 20 dimensions
    a, b = ours @ basis, theirs @ basis
    cross = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T) + 0j).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * cross)
    assert result.entries[0].figures["fid"].value == pytest.approx(expected, rel=1e-4)


def test_the_readmes_words_once_the_data_is_there(inception_file, tmp_path, monkeypatch):
    coco_folder(tmp_path / "coco", 11)
    (tmp_path / "coco" / "val2014" / "COCO_val2014_000000000007.jpg").write_bytes(b"no picture")
    (tmp_path / "cache" / "tdd").mkdir(parents=True)
    inception_file.rename(tmp_path / "cache" / "tdd" / inception.NAME)
    whole = sets.SETS["coco30k"]
    monkeypatch.setitem(sets.SETS, "coco30k", lambda data: replace(whole(data), n=10))  # of 30,000
    done = call("--metric", "fid", "--set", "coco30k")
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "evals").glob("coco30k-*/eval.json")
    result = Result.load(path)
    (entry,) = result.entries
    assert (entry.label, entry.n, list(entry.figures)) == ("bundled student", 10, ["fid"])
    assert math.isfinite(entry.figures["fid"].value)
    assert "1 of the set's own pictures could not be read, and are left out" in result.remarks
    assert any("SiD-LSG" in remark for remark in result.remarks)
    assert result.protocol["caption_prefix"] == "A photo depicts "


def test_every_distance_through_other_networks(student, photos, tmp_path):
    dino, clip = tmp_path / "dino", tmp_path / "clip"
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(dino)
    text = {"vocab_size": len(_vocabulary()), "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    vision = {"image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config=small | text, vision_config=small | vision, projection_dim=12)
    CLIPModel(config).save_pretrained(clip)
    _tokenizer(clip, "<|endoftext|>").save_pretrained(clip)
    for folder in (dino, clip):
        processor.save_pretrained(folder)
    done = call(
        "--lora", student, "--set", f"folder:{photos}", "--metric", "fd-dinov2,cmmd,clip", "--features",
        f"fd-dinov2={dino}", "--features", f"cmmd={clip}", "--features", f"clip={clip}", "--out", "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = Result.load(tmp_path / "out" / "eval.json")
    figures = result.entries[0].figures
    assert list(figures) == ["fd-dinov2", "cmmd", "clip"]
    assert all(figures[name].value > 0 for name in ("fd-dinov2", "cmmd"))
    assert result.measures["cmmd"]["network"] == str(clip)
    assert not any("SiD" in remark for remark in result.remarks)
    real = call("--images", photos, "--set", f"folder:{photos}", "--metric", "fd-dinov2,cmmd", "--features",
                f"fd-dinov2={dino}", "--features", f"cmmd={clip}", "--out", "out")  # fmt: skip
    assert real.exit_code == 0, real.output
    itself = next(e for e in Result.load(tmp_path / "out" / "eval.json").entries if e.label == "photos")
    assert itself.figures["cmmd"].value == pytest.approx(0, abs=1e-6)
    assert itself.figures["fd-dinov2"].value == pytest.approx(0, abs=1e-6)


def test_speed_is_measured_anew_for_another_batch(student, photos, monkeypatch):
    drawn, real = [], subjects.generate
    monkeypatch.setattr(
        subjects, "generate", lambda *a, batch, **more: drawn.append(batch) or real(*a, batch=batch, **more)
    )
    arguments = ("--lora", student, "--set", f"folder:{photos}", "--out", "out", "--json")
    clip = ("--features", "clip=emoji")
    for metric, batch, more in (("clip", 4, clip), ("speed", 4, ()), ("speed", 2, ())):
        done = call(*arguments, "--metric", metric, "--batch", batch, *more)
        assert done.exit_code == 0, done.output
    assert drawn == [4, 4, 2]
    found = json.loads(done.stdout)
    (entry,) = found["entries"]
    places = {name: found["environments"][figure["environment"]] for name, figure in entry["figures"].items()}
    assert (places["seconds"]["batch"], places["clip"]["batch"]) == (2, 4)
    assert {"device", "device_name", "dtype", "threads", "versions"} <= set(places["seconds"])


def test_a_baseline_that_is_a_subject_too_is_shown_once_and_stays(student, photos):
    arguments = ("--lora", student, "--set", f"folder:{photos}", "--metric", "clip", "--features", "emoji",
                 "--out", "out", "--steps", "1,2", "--json")  # fmt: skip
    for _ in range(2):
        done = call(*arguments, "--against", student)
        assert done.exit_code == 0, done.output
        entries = json.loads(done.stdout)["entries"]
        assert [(e["subject"]["sampling"]["steps"], e["baseline"]) for e in entries] == [(1, True), (2, True)]


def test_pictures_of_rows_measured_earlier_stay_in_the_report(student, photos, tmp_path):
    arguments = ("--lora", student, "--set", f"folder:{photos}", "--metric", "clip", "--features", "emoji",
                 "--out", "out")  # fmt: skip
    for steps in (1, 2):
        assert call(*arguments, "--steps", steps).exit_code == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png") == 2 * collect.SAMPLES


def kept_features(folder):
    """The features in the only shard under a folder [N, 2048]."""
    (path,) = folder.rglob("rows-*.safetensors")
    (features,) = [value for key, value in load_file(path).items() if key.startswith("features-")]
    return features.double().numpy()


def coco_order(count):
    """The protocol's order of pictures 1..count."""
    return sorted(range(1, count + 1), key=lambda i: hashlib.sha256(str(i).encode()).hexdigest())


def by_hand(net, path):
    """The protocol's way of a picture, written out: middle square, Lanczos 256, bicubic 299 in float."""
    image = Image.open(path).convert("RGB")
    left = (image.width - image.height) // 2
    square = image.crop((left, 0, left + image.height, image.height)).resize(
        (256, 256), Image.Resampling.LANCZOS
    )
    bands = [band.convert("F").resize((299, 299), Image.Resampling.BICUBIC) for band in square.split()]
    with torch.no_grad():
        return net(torch.tensor(np.stack([np.asarray(band) for band in bands]))[None])[0].numpy()


def test_pictures_of_ones_own_are_measured_and_the_unreadable_counted(photos, tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for i in range(12):
        picture(100 + i).save(drawn / f"{i:02d}.png")
    (drawn / "03.png").write_bytes(b"no picture")
    done = call(
        "--images",
        drawn,
        "--set",
        f"folder:{photos}",
        "--metric",
        "fid,clip",
        "--features",
        "emoji",
        "--out",
        "out",
    )
    assert done.exit_code == 0, done.output
    entry = Result.load(tmp_path / "out" / "eval.json").entries[0]
    assert (entry.label, entry.n, entry.unreadable) == ("drawn", 11, 1)
    assert "1 unreadable" in done.stdout


def test_an_earlier_result_is_a_baseline_only_of_the_same_protocol(student, photos, tmp_path):
    first = ("--lora", student, "--set", f"folder:{photos}", "--metric", "clip", "--features", "emoji")
    assert call(*first, "--out", "one").exit_code == 0
    for _ in range(2):
        same = call(*first, "--steps", 1, "--against", "one/eval.json", "--out", "two", "--json")
        assert [entry["baseline"] for entry in json.loads(same.stdout)["entries"]] == [True, False]
    other = ("--seed", 5, "--against", "one/eval.json", "--out", "three")
    refused = call(*first, *other)
    assert isinstance(refused.exception, UsageError)
    assert "protocols differ in seeds" in refused.exception.message
    assert not (tmp_path / "three").exists()
    forced = call(*first, *other, "--force")
    assert forced.exit_code == 0, forced.output
    assert "Not comparable, shown together by --force" in forced.stderr
    entries = json.loads((tmp_path / "three" / "eval.json").read_text())["entries"]
    assert [(entry["baseline"], bool(entry["apart"])) for entry in entries] == [(True, True), (False, False)]
    again = call(*first, "--seed", 5, "--out", "three")
    assert "Not comparable, shown together by --force" in again.stderr
    unlike = call(*first, "--out", "three", "--force")  # one file is of one protocol, whatever is asked
    assert isinstance(unlike.exception, UsageError)
    assert "Another --out" in unlike.exception.hint


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--metric", "fidd"], UsageError, "unknown metric 'fidd'; did you mean 'fid'"),
        (["--metric", ","], UsageError, "no metric given"),
        (["--set", "coco31k"], UsageError, "unknown set 'coco31k'"),
        (["--set", "coco30k"], MissingComponent, "COCO 2014 is not here"),
        (["--set", "coco30k", "--data", "absent"], DataError, "there is no folder absent"),
        (["--features", "fud=x"], UsageError, "unknown metric 'fud'"),
        (["--features", "clip="], UsageError, "--features clip= names no model"),
        (["--metric", "clip", "--features", "fid=emoji"], UsageError, "no metric that is measured here"),
        (["--metric", "speed", "--features", "emoji"], UsageError, "no metric that is measured here"),
        (["--features", "speed=emoji", "--metric", "speed"], UsageError, "no metric that is measured here"),
        (
            ["--images", "photos", "--steps", "4", "--set", "folder:photos"],
            UsageError,
            "--steps is for a model",
        ),
        (["--out", "one.png/results"], UsageError, "one.png is not a folder"),
        (["--model", "absent"], UsageError, "no model at absent"),
        (["--model", "bundled:emoji", "--lora", "absent.safetensors"], UsageError, "absent.safetensors"),
        (["--against", "absent"], UsageError, "no model at absent"),
        (["--set", "folder:bare"], DataError, "bare holds pictures but no captions"),
        (
            ["--features", "absent/network", "--set", "folder:photos"],
            MissingComponent,
            "absent/network is not here",
        ),
        (["--metric", "is", "--set", "folder:photos"], MissingComponent, "Inception weights"),
        (
            ["--inception", "absent.pth", "--metric", "is", "--set", "folder:photos"],
            UsageError,
            "there is no file absent.pth",
        ),
        (["--steps", "8-4", "--set", "folder:photos"], UsageError, "range 8-4"),
        (["--steps", "251"], UsageError, "no equal schedule of 251 steps"),
        (["--guidance", "x", "--set", "folder:photos"], UsageError, "'x' is not a number"),
        (["--images", "absent"], DataError, "there is no folder absent"),
        (["absent-run"], UsageError, "absent-run does not exist"),
        (["--against", "absent.json", "--set", "folder:photos"], UsageError, "there is no file absent.json"),
        (["--n", "3000"], DataError, "emoji needs 3,000 captions"),
        (["--n", "5", "--metric", "fid"], DataError, "fid needs at least 10 pictures"),
        (["--resize", "32"], UsageError, "own picture size"),
        (
            ["--images", "photos", "--metric", "speed", "--set", "folder:photos"],
            UsageError,
            "speed needs a model to draw with",
        ),
        (
            ["--images", "photos", "--metric", "clip", "--against", "teacher", "--set", "folder:photos"],
            UsageError,
            "there is no model",
        ),
        (
            ["--metric", "is", "--features", "emoji", "--set", "folder:photos"],
            UsageError,
            "is needs class probabilities",
        ),
        (["--images", ".", "--n", "20"], DataError, "holds 14 pictures, and 20 are asked for"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(photos, tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("offline"))
    )
    picture(0).save(tmp_path / "one.png")
    (tmp_path / "bare").mkdir()
    picture(0).save(tmp_path / "bare" / "one.png")
    done = call(*arguments)
    assert isinstance(done.exception, error), done.output + repr(done.exception)
    assert message in done.exception.message
    assert not (tmp_path / "evals").exists()


def test_sets_and_pictures_that_do_not_fit(student, photos, tmp_path):
    common = ("--set", f"folder:{photos}", "--features", "emoji", "--out", "out")
    picture(50, (48, 32)).save(photos / "005.png")
    mixed = call("--lora", student, *common, "--metric", "fid")
    assert isinstance(mixed.exception, DataError)
    assert "2 different sizes (32 x 32, 48 x 32" in mixed.exception.message
    assert "--resize" in mixed.exception.hint
    cropped = call("--lora", student, *common, "--metric", "fid", "--resize", 32)
    assert cropped.exit_code == 0, cropped.output
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no pictures" in call("--images", empty, *common).exception.message
    (empty / "a.png").write_bytes(b"")
    unread = call("--images", empty, *common[:-1], "unread", "--metric", "clip")
    assert "none of the pictures can be read" in unread.exception.message


def test_too_few_readable_pictures_are_said_of_the_side_that_lacks_them(photos, tmp_path):
    drawn = picture_folder(tmp_path / "drawn", 12)
    common = ("--metric", "fid", "--features", "emoji", "--images", drawn)
    for name in ("000.png", "001.png", "002.png"):
        (photos / name).write_bytes(b"no picture")
    few = call(*common, "--set", f"folder:{photos}", "--out", "few")
    assert isinstance(few.exception, DataError)
    assert few.exception.message == "fid needs at least 10 real pictures, and the set has 9 that can be read"
    picture(0).save(photos / "000.png")
    for name in ("000.png", "001.png", "002.png"):
        (drawn / name).write_bytes(b"no picture")
    few = call(*common, "--set", f"folder:{photos}", "--out", "drew")
    assert few.exception.message == "fid needs at least 10 pictures, and there are 9 of drawn"


def test_a_run_without_a_result_is_said(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    (run / "manifest.json").write_text("{}")
    done = call(run)
    assert isinstance(done.exception, UsageError)
    assert "inference.json does not exist" in done.exception.message


def test_prompts_without_pictures_have_no_fid(student, tmp_path):
    (tmp_path / "prompts.tsv").write_text("Prompt\tCategory\na fox\tAnimals\n")
    parti = ("--set", "parti", "--data", "prompts.tsv", "--n", 1, "--lora", student)
    refused = call(*parti, "--metric", "fid", "--features", "emoji")
    assert isinstance(refused.exception, DataError)
    assert "the set has none" in refused.exception.message
    assert call(*parti, "--metric", "clip,speed", "--features", "clip=emoji").exit_code == 0
