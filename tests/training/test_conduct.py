"""Whole runs on random tiny pipelines: they end, resume to the bit, and what they save loads."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tdd_cli.errors import TddError
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Inference, Run
from tdd_cli.training import conduct as conducting
from tdd_cli.training.assemble import assemble

SMALL = (
    "train.steps=6", "train.warmup=2", "train.global_batch=4", "train.device_batch=2", "data.resolution=32",
    "checkpoint.every=2", "preview.every=0", "preview.prompts=[a fox]",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """One process runs several runs here, each with its own precision."""
    AcceleratorState._reset_state(True)


def recipe_for(model, *changes, name="emoji-4to8"):
    lora = () if "student.kind=full" in changes else ("student.rank=4",)
    return load_recipe(name, [f"model.path={model}", *SMALL, *lora, *changes])


def run(recipe, folder, *, stop=None, resume=False):
    parts = assemble(recipe)
    made = Run.open(folder) if resume else Run.create(folder, recipe, name="test")
    start = conducting.restore(made, parts) if resume else 0
    stop = stop or recipe.train.steps
    reports = list(conducting.conduct(recipe, made, parts, start=start, stop=stop, halt=lambda: False))
    return made, reports, conducting.finish(recipe, made, parts)


def losses(made):
    return [(record["step"], record["loss"], record["loss_ema"]) for record in made.records()]


@pytest.mark.parametrize("target", ["tdd", "lcm", "pcm", "ctm"])
def test_every_method_runs_under_the_same_trainer(tiny_folders, tmp_path, target):
    recipe = recipe_for(tiny_folders["sdxl"], f"target.rule={target}")
    made, _, reload = run(recipe, tmp_path / "run")
    assert reload.ok
    assert reload.matched == reload.total > 50
    assert [step for step, *_ in losses(made)] == [1, 2, 3, 4, 5, 6]
    assert Inference.load(made.inference).method == target
    assert len(list(made.samples.glob("*.png"))) == 1


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"])
    whole, _, _ = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "parts", stop=3)
    parts, _, _ = run(recipe, tmp_path / "parts", resume=True)
    assert losses(parts) == losses(whole)
    ours, theirs = load_file(parts.adapter), load_file(whole.adapter)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_micro_batches_add_up_to_the_batch(tiny_folders, tmp_path):
    whole, _, _ = run(recipe_for(tiny_folders["sdxl"], "train.device_batch=4"), tmp_path / "whole")
    parts, _, _ = run(recipe_for(tiny_folders["sdxl"], "train.device_batch=1"), tmp_path / "parts")
    for (_, ours, _), (_, theirs, _) in zip(losses(parts), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_latent_cache_changes_nothing(tiny_folders, tmp_path):
    plain, _, _ = run(recipe_for(tiny_folders["sdxl"], "data.cache=none"), tmp_path / "plain")
    cached, _, _ = run(recipe_for(tiny_folders["sdxl"], "data.cache=memory"), tmp_path / "cached")
    for (_, ours, _), (_, theirs, _) in zip(losses(cached), losses(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # the encoder rounds by the batch it is given


@pytest.mark.parametrize("name", ["sdxl-4to8", "sd15-4to8"])
def test_the_large_recipes_run_on_tiny_pipelines(tiny_folders, tmp_path, name):
    family = name.partition("-")[0]
    recipe = recipe_for(
        tiny_folders[family], "data.source=bundled:emoji", "data.workers=0", "train.precision=bf16", name=name
    )
    made, _, reload = run(recipe, tmp_path / "run")
    assert reload.ok
    assert Inference.load(made.inference).family == family


def test_a_full_student_trains_all_weights_and_leaves_its_teacher_alone(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sd15"], "model.family=sd15", "student.kind=full")
    parts = assemble(recipe)
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([999, 3])
    cond = parts.family.encode_prompts(["a fox", "the sun"])
    with torch.no_grad():
        before = parts.pair.teacher(x, t, cond)
        assert torch.equal(parts.pair.student(x, t, cond), before)
        made = Run.create(tmp_path / "run", recipe, name="full")
    list(conducting.conduct(recipe, made, parts, start=0, stop=2, halt=lambda: False))
    with torch.no_grad():
        assert torch.equal(parts.pair.teacher(x, t, cond), before)
        assert not torch.equal(parts.pair.student(x, t, cond), before)
    assert conducting.finish(recipe, made, parts) is None
    saved = load_file(made.folder / "student" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in parts.pair.state().items())


def test_halting_saves_and_does_nothing_more(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"], "checkpoint.every=100")
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    answers = iter([False, False, True])
    reports = list(conducting.conduct(recipe, made, parts, start=0, stop=6, halt=lambda: next(answers)))
    assert reports[-1].saved == made.checkpoints / "step-000003"
    assert [step for step, *_ in losses(made)] == [1, 2, 3]


def test_a_loss_that_is_not_finite_ends_the_run_naming_the_last_good_state(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"])
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    reports = conducting.conduct(recipe, made, parts, start=0, stop=6, halt=lambda: False)
    while (report := next(reports)).saved is None:
        pass
    with torch.no_grad():
        parts.pair.parameters[1].fill_(float("nan"))
    with pytest.raises(TddError, match=r"the loss is nan at step 3") as raised:
        list(reports)
    assert str(report.saved) in raised.value.hint


def test_an_adapter_that_does_not_load_as_trained_is_not_left_behind(tiny_folders, tmp_path, monkeypatch):
    recipe = recipe_for(tiny_folders["sdxl"])
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    list(conducting.conduct(recipe, made, parts, start=0, stop=1, halt=lambda: False))
    honest = conducting.save_lora

    def lossy(net, path, metadata, **keywords):
        with torch.no_grad():
            honest(net, path, metadata, **keywords)
            parts.pair.parameters[0].mul_(1.5)

    monkeypatch.setattr(conducting, "save_lora", lossy)
    with pytest.raises(TddError, match="does not load as it was trained"):
        conducting.finish(recipe, made, parts)
    assert not made.adapter.exists()
    assert not made.inference.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_prints_the_command_that_resumes(tiny_folders, tmp_path, number):
    command = [sys.executable, "-m", "tdd_cli", "distill", "--out", str(tmp_path / "run")]
    for change in (f"model.path={tiny_folders['sdxl']}", *SMALL, "train.steps=10000", "preview.prompts=[]"):
        command += ["--set", change]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"tdd distill --resume {tmp_path / 'run'}" in said
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps[-1]:06d}").is_dir()
