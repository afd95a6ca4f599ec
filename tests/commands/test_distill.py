"""tdd distill, as typed."""

import json
import signal

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.data.store import Store
from tdd_cli.errors import DataError, Interrupted, MissingComponent, RecipeError, UsageError
from tdd_cli.training import prepare

SMALL = (
    "train.steps=4", "train.warmup=1", "train.global_batch=4", "train.device_batch=4", "data.resolution=32",
    "student.rank=2", "checkpoint.every=2", "preview.prompts=[]",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate():
    AcceleratorState._reset_state(True)


def call(*arguments):
    return CliRunner().invoke(app, ["distill", *map(str, arguments)])


def settings(model, *changes):
    return [word for change in (f"model.path={model}", *SMALL, *changes) for word in ("--set", change)]


def steps(run):
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_does_and_prints_its_folder(tiny_folders, tmp_path):
    done = call(*settings(tiny_folders["sdxl"]), "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(tmp_path / "run")]
    assert "recipe emoji-4to8 (the default)" in done.stderr
    assert "modules 119/119" in done.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"recipe.yaml", "manifest.json", "log.jsonl", "inference.json", "adapter.safetensors"}
    drawn = CliRunner().invoke(
        app, ["sample", "a fox", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "pictures")]
    )
    assert drawn.exit_code == 0, drawn.output
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a-fox-0.png"]


def test_max_steps_stops_early_and_resume_finishes(tiny_folders, tmp_path):
    run = tmp_path / "run"
    first = call("-r", "emoji-pcm", *settings(tiny_folders["sdxl"]), "--out", run, "--max-steps", 3)
    assert steps(run) == [1, 2, 3]
    assert f"tdd distill --resume {run}" in first.stderr
    second = call("--resume", run)
    assert second.exit_code == 0, second.output
    assert steps(run) == [1, 2, 3, 4]


def test_a_run_goes_on_by_itself_and_with_another_recipe_only_by_force(tiny_folders, tmp_path):
    words = (*settings(tiny_folders["sdxl"]), "--out", tmp_path / "run", "--resume", "auto")
    assert call(*words, "--max-steps", 1).exit_code == 0
    assert call(*words, "--max-steps", 2).exit_code == 0
    assert steps(tmp_path / "run") == [1, 2]
    refused = call(*words, "--set", "train.lr=1e-9")
    assert isinstance(refused.exception, UsageError)
    assert "1e-09 asked for" in refused.exception.message
    assert call(*words, "--set", "train.lr=1e-9", "--force").exit_code == 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] == 1e-9 for line in lines[:2]] == [False, False]
    assert json.loads(lines[-1])["lr"] < 1e-9


def test_resuming_a_finished_run_changes_nothing(tiny_folders, tmp_path):
    run = tmp_path / "run"
    call(*settings(tiny_folders["sdxl"]), "--out", run)
    before = load_file(run / "adapter.safetensors")
    assert call("--resume", run).exit_code == 0
    assert steps(run) == [1, 2, 3, 4]
    after = load_file(run / "adapter.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_resuming_passes_a_damaged_checkpoint_over_and_removes_a_half_written_one(tiny_folders, tmp_path):
    run = tmp_path / "run"
    call(*settings(tiny_folders["sdxl"]), "--out", run)
    optimizer = run / "checkpoints" / "step-000004" / "optimizer.safetensors"
    content = bytearray(optimizer.read_bytes())
    content[-2] ^= 1
    optimizer.write_bytes(content)
    half = [run / "checkpoints" / ".step-000003.partial-here-1", run / ".student.partial-here-1"]
    for path in half:
        path.mkdir()
    done = call("--resume", run)
    assert done.exit_code == 0, done.output
    assert "optimizer.safetensors has changed since it was written" in done.stderr
    assert f"run {run}: steps 2..4" in done.stderr
    for path in half:
        assert f"removed {path}" in done.stderr
        assert not path.exists()


def test_a_run_notes_the_machine_its_rate_is_of(tiny_folders, tmp_path):
    from tdd_cli.training.rates import device_name, likely_device

    call(*settings(tiny_folders["sdxl"]), "--out", tmp_path / "run", "--max-steps", 1)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["processes"], manifest["device"]) == (1, device_name(likely_device()))


PROMPTS = (
    "data.source=null", "data.prompts=prompts.txt", "data.cache=latents", "data.flip=false",
    "data.teacher_steps=1", "train.device_batch=1",
)  # fmt: skip


def test_a_cache_interrupted_goes_on_where_it_stopped(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Store.__init__, "__kwdefaults__", {"per_part": 2})
    (tmp_path / "prompts.txt").write_text("".join(f"a fox {i}\n" for i in range(5)))
    words = (*settings(tiny_folders["sdxl"], *PROMPTS), "--out", tmp_path / "run", "--max-steps", 1)

    def interrupted(latents, *, of=prepare.check_latents):
        interrupted.calls += 1
        if interrupted.calls == 4:  # the second of the second file
            signal.raise_signal(signal.SIGINT)
        of(latents)

    interrupted.calls = 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "check_latents", interrupted)
        stopped = call(*words)
    signal.signal(signal.SIGINT, before)
    assert isinstance(stopped.exception, Interrupted), stopped.output
    assert "that are whole are kept" in stopped.exception.message
    begun = next(line for line in stopped.stderr.splitlines() if line.startswith("drawing into cache"))
    assert ", about " in begun
    assert begun.endswith(": 5 samples")
    assert "samples 1/5  " in stopped.stderr
    assert not (tmp_path / "run").exists()
    AcceleratorState._reset_state(True)
    again = call(*words)
    assert again.exit_code == 0, again.output
    assert ": 3 samples" in again.stderr


def test_the_seed_option_is_the_recipes_seed(tiny_folders, tmp_path):
    call(*settings(tiny_folders["sdxl"]), "--out", tmp_path / "run", "--seed", 7, "--max-steps", 1)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["-r", "emoji-4to9"], RecipeError, "there is no recipe or file 'emoji-4to9'"),
        (["--set", "lora.rnak=4"], RecipeError, "did you mean 'student.rank'"),
        (["--set", "train.steps=many"], RecipeError, "train.steps must be an integer >= 1"),
        (["--resume", "absent"], UsageError, "absent does not exist"),
        (["--resume", "absent", "--out", "other"], UsageError, "--resume names the run folder"),
        (["--set", "data.source=./absent"], DataError, "neither a folder"),
        (["--set", "data.source=absent.parquet"], DataError, "there is no file absent.parquet"),
        (["--set", "model.path=./absent"], UsageError, "no model at ./absent"),
        (["--set", "model.path=model.ckpt"], UsageError, "is a pickle"),
        (["--set", "model.path=nobody/nothing"], MissingComponent, "nobody/nothing"),
        (["-r", "sdxl-4to8", "--set", "data.source=bundled:emoji"], MissingComponent, "stable-diffusion-xl"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(monkeypatch, tmp_path, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call(*arguments)
    assert isinstance(done.exception, error), done.output
    assert message in done.exception.message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_to(tiny_folders, tmp_path):
    (tmp_path / "keep.txt").write_text("precious")
    done = call(*settings(tiny_folders["sdxl"]), "--out", tmp_path)
    assert isinstance(done.exception, UsageError)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]
