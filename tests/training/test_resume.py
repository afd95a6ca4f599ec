"""Runs that are killed or stopped go on as if nothing had happened, and only with what they began with."""

import io
import json
import os
import random
import signal
import tarfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from sets_on_disk import picture, picture_folder
from tdd_cli.cli import app
from tdd_cli.errors import TddError, UsageError
from tdd_cli.families import load_family
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training import conduct as conducting
from tdd_cli.training.assemble import assemble
from tdd_cli.training.origins import weights_hash
from tdd_cli.training.resume import check_same, differences, settle_origins, take_recipe, unfinished
from tdd_cli.training.stock import Raw, origins

SMALL = (
    "train.steps=5", "train.warmup=1", "train.global_batch=2", "train.device_batch=2", "data.resolution=32",
    "student.rank=1", "checkpoint.every=1", "preview.prompts=[]", "train.precision=fp32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate():
    AcceleratorState._reset_state(True)


def recipe_for(model, *changes):
    return load_recipe("emoji-4to8", [f"model.path={model}", *SMALL, *changes])


def go(recipe, folder):
    """A run from where it stands to its end."""
    AcceleratorState._reset_state(True)
    parts = assemble(recipe)
    begun = (folder / "manifest.json").is_file()
    run = Run.open(folder) if begun else Run.create(folder, recipe, name="test")
    start = conducting.restore(run, parts) if begun else 0
    stop = recipe.train.steps
    list(conducting.conduct(recipe, run, parts, start=start, stop=stop, halt=lambda: False))
    conducting.finish(recipe, run, parts)


def killed(recipe, folder, seconds):
    """The same in a process of its own, killed after some time; whether it came to its end before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            go(recipe, folder)
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def outcome(folder):
    timing = ("images_per_s", "peak_memory_mb")
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in record.items() if key not in timing} for record in records]
    return log, load_file(folder / "adapter.safetensors")


def tars(folder):
    """Three tars of ten pictures, one of them cut short."""
    folder.mkdir()
    for n in range(3):
        with tarfile.open(folder / f"{n}.tar", "w") as tar:
            for i in range(10):
                picture = io.BytesIO()
                Image.new("RGB", (36, 40), (20 * i, 60 * n, 0)).save(picture, "PNG")
                for name, content in ((f"{i}.png", picture.getvalue()), (f"{i}.txt", b"a fox %d" % i)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    cut = folder / "2.tar"
    cut.write_bytes(cut.read_bytes()[:9000])
    return folder


def row_groups(folder):
    """Two parquet files of row groups of three, of which a threshold leaves out some; one cannot be read."""
    folder.mkdir()
    for n in range(2):
        pictures = [{"bytes": png(10 * n + i), "path": None} for i in range(10)]
        table = {"image": pictures, "text": [f"a fox {n} {i}" for i in range(10)], "score": [*range(10)]}
        pq.write_table(pa.table(table), folder / f"{n}.parquet", row_group_size=3)
    (folder / "2.parquet").write_bytes(b"nothing of the kind")
    return folder


def parquet_file(folder):
    """Seven pictures in one file."""
    folder.mkdir()
    pictures = [{"bytes": png(i), "path": None} for i in range(7)]
    table = pa.table({"image": pictures, "text": [f"a fox {i}" for i in range(7)]})
    pq.write_table(table, folder / "0.parquet")
    return folder / "0.parquet"


def png(seed):
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def beside(folder):
    """Seven pictures with a .txt beside each; one of them cannot be read."""
    folder.mkdir()
    for i in range(7):
        picture(i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a fox, number {i}")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


SOURCES = {
    "the bundled emoji": ("train.ema=0.9",),
    "a parquet file": ("data.flip=false",),
    "folder with metadata.csv": ("data.cache=none",),
    "folder with .txt beside": ("data.workers=1",),
    "folder seen again and again": ("train.steps=12",),
    "tars with workers": ("data.workers=2", "data.cache=none", "data.flip=false"),
    "streamed parquet with workers": (
        "data.streaming=true",
        "data.workers=2",
        "data.cache=none",
        "data.where=['score > 0']",
    ),
    "cache": (
        "data.source=null",
        "data.prompts=prompts.txt",
        "data.cache=all",
        "data.flip=false",
        "data.teacher_steps=2",
    ),
}


MAKES = {
    "a parquet file": parquet_file,
    "folder with metadata.csv": lambda folder: picture_folder(folder, 7),
    "folder with .txt beside": beside,
    "folder seen again and again": lambda folder: picture_folder(folder, 5),
    "tars with workers": tars,
    "streamed parquet with workers": row_groups,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", SOURCES)
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(tiny_folders, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    made = MAKES[kind](tmp_path / "data") if kind in MAKES else None
    if kind == "cache":
        (tmp_path / "prompts.txt").write_text("a fox\nthe sun\na tree\n")
    changes = [*SOURCES[kind], *([f"data.source={made}"] if made else [])]
    recipe = recipe_for(tiny_folders["sdxl"], *changes)
    began = time.monotonic()
    go(recipe, tmp_path / "whole")
    length = time.monotonic() - began
    draw = random.Random(kind)
    for _ in range(3):
        if killed(recipe, tmp_path / "parts", draw.uniform(0.2, 1.0) * length):
            break
    go(recipe, tmp_path / "parts")
    (ours, weights), (theirs, expected) = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert ours == theirs
    assert [record["step"] for record in ours] == [*range(1, recipe.train.steps + 1)]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "runs" / "one", load_recipe("emoji-4to8"), name="emoji-4to8")


def test_another_recipe_is_refused_saying_which_keys_differ(run):
    asked = load_recipe("emoji-4to8", ["train.lr=1e-9", "target.rule=pcm"])
    with pytest.raises(UsageError) as refused:
        check_same(run, asked)
    assert f"train.lr: {run.load_recipe().train.lr} in the run, 1e-09 asked for" in refused.value.message
    assert 'target.rule: "tdd" in the run, "pcm" asked for' in refused.value.message
    assert "target.phases: not there in the run, 4 asked for" in refused.value.message
    assert "--force" in refused.value.hint
    first = run.load_recipe()
    take_recipe(run, asked)
    assert run.load_recipe() == asked
    check_same(run, asked)
    assert list(differences(run.load_recipe(), asked)) == []
    take_recipe(run, first)
    take_recipe(run, first)
    kept = [run.recipe.with_name(f"recipe.before-{n}.yaml") for n in (1, 2, 3)]
    assert [load_recipe(str(path)) for path in kept[:2]] == [first, asked]
    assert not kept[2].exists()


def test_changed_data_or_models_are_refused_saying_which(run):
    made_of = {"data.source": "a" * 64, "weights of vae": "c" * 64}
    settle_origins(run, made_of, force=False)
    settle_origins(run, made_of, force=False)
    other = made_of | {"data.source": "b" * 64}
    with pytest.raises(UsageError, match=f"other than when {run.folder} was started: data.source$"):
        settle_origins(run, other, force=False)
    settle_origins(run, other, force=True)
    assert json.loads(run.manifest.read_text())["made_of"] == other


def test_forcing_what_cannot_be_done_leaves_the_run_as_it_was(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = run.recipe.read_bytes()
    done = CliRunner().invoke(
        app, ["distill", "--resume", str(run.folder), "--set", "data.source=does/not.parquet", "--force"]
    )
    assert isinstance(done.exception, TddError)
    assert run.recipe.read_bytes() == before


def test_what_a_run_is_made_of_changes_with_every_part(tiny_folders):
    def made_of(change=lambda family: None):
        family = load_family("sdxl", str(tiny_folders["sdxl"]))
        change(family)
        return origins(Raw(prompts=["a fox"], fingerprint="0"), family)

    def strengthen(family):
        with torch.no_grad():
            next(family.net.parameters()).mul_(1.01)

    def rescale(family):
        family.pipeline().vae.register_to_config(scaling_factor=0.5)

    def predict(family):
        family.pipeline().scheduler.register_to_config(prediction_type="sample")

    def rename(family):
        family.pipeline().tokenizer.add_tokens(["unheard-of"])

    whole = made_of()
    assert whole == made_of()
    changed = {
        name: [key for key in whole if made_of(change)[key] != whole[key]]
        for name, change in (
            ("weights", strengthen), ("scale", rescale), ("prediction", predict), ("words", rename)
        )
    }  # fmt: skip
    assert changed == {
        "weights": ["weights of unet"],
        "scale": ["settings of vae"],
        "prediction": ["settings of scheduler"],
        "words": ["words of tokenizer"],
    }


def test_weights_are_the_same_in_sixteen_bits(tiny_folders):
    folder = str(tiny_folders["sdxl"])
    half = load_family("sdxl", folder, dtype=torch.bfloat16)
    assert weights_hash(half.net) == weights_hash(load_family("sdxl", folder).net)


def test_auto_means_the_newest_unfinished_run_of_the_recipe(run, tmp_path):
    root = tmp_path / "runs"
    assert unfinished(None, "emoji-4to8", root) == run
    assert unfinished(None, "emoji-pcm", root) is None
    assert unfinished(tmp_path / "absent", "emoji-4to8", root) is None
    assert unfinished(run.folder, None, root) == run
    run.inference.write_text("{}")
    run.log({"step": run.load_recipe().train.steps})
    assert unfinished(None, "emoji-4to8", root) is None
