"""The average of the student: its arithmetic, applied and taken back to the bit, resumed, left behind."""

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tdd_cli.families.lora import folded_state
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training import conduct as conducting
from tdd_cli.training.assemble import assemble
from tdd_cli.training.ema import Ema, warmed

SMALL = (
    "train.steps=4", "train.warmup=1", "train.global_batch=2", "train.device_batch=2", "data.resolution=32",
    "student.rank=2", "checkpoint.every=2", "preview.every=0", "preview.prompts=[a fox]",
    "train.precision=fp32", "train.ema=0.9",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate():
    AcceleratorState._reset_state(True)


def started(model, folder, *changes):
    recipe = load_recipe("emoji-4to8", [f"model.path={model}", *SMALL, *changes])
    return recipe, assemble(recipe), Run.create(folder, recipe, name="test")


def go(recipe, parts, run, *, start=0, stop=4):
    return list(conducting.conduct(recipe, run, parts, start=start, stop=stop, halt=lambda: False))


def test_the_average_is_the_weighted_sum_of_what_it_was_given():
    weight = torch.nn.Parameter(torch.zeros(2))
    ema, expected = Ema([weight], 0.25), torch.zeros(2)
    for step, decay in enumerate([0.1, 2 / 11, 0.25, 0.25]):
        with torch.no_grad():
            weight += 1
        ema.update(step)
        expected = decay * expected + (1 - decay) * weight.detach()
        torch.testing.assert_close(ema.averages[0], expected)


def test_the_decay_rises_to_what_was_asked():
    decays = [warmed(0.999, step) for step in range(20_000)]
    assert decays == sorted(decays)
    assert decays[0] == 0.1
    assert decays[-1] == 0.999


def test_parameters_are_averages_inside_and_themselves_after():
    weight = torch.nn.Parameter(torch.randn(5, dtype=torch.bfloat16))
    ema, before = Ema([weight], 0.9), weight.detach().clone()
    ema.averages[0].fill_(1 / 3)
    with ema.applied():
        assert torch.equal(weight, torch.full((5,), 1 / 3).bfloat16())
    assert torch.equal(weight, before)
    ema.restart()
    assert torch.equal(ema.averages[0], before.float())


def test_previews_and_the_result_are_of_the_average(tiny_folders, tmp_path, monkeypatch):
    recipe, parts, run = started(tiny_folders["sdxl"], tmp_path / "run")
    drawn = []
    previews = conducting.make_previews(recipe, parts)
    honest = previews.draw
    monkeypatch.setattr(conducting, "make_previews", lambda *_: previews)
    monkeypatch.setattr(
        previews, "draw", lambda step: drawn.append(folded_state(parts.family.net)) or honest(step)
    )
    go(recipe, parts, run)
    student = folded_state(parts.family.net)
    assert conducting.finish(recipe, run, parts).ok
    saved = {key.removeprefix("unet."): value for key, value in load_file(run.adapter).items()}
    with parts.ema.applied():
        average = folded_state(parts.family.net)
    assert saved.keys() == average.keys() == drawn[0].keys()
    for key, value in average.items():
        assert torch.equal(saved[key], value)
        assert torch.equal(drawn[0][key], value)
    assert any(not torch.equal(student[key], value) for key, value in average.items())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_resumed_run_has_the_same_average(tiny_folders, tmp_path, kind):
    only = ("model.family=sd15", "preview.prompts=[]", f"student.kind={kind}")
    changes = [change for change in SMALL if kind == "lora" or "rank" not in change]
    recipe = load_recipe("emoji-4to8", [f"model.path={tiny_folders['sd15']}", *changes, *only])
    whole, parts = assemble(recipe), assemble(recipe)
    go(recipe, whole, Run.create(tmp_path / "whole", recipe, name="test"))
    run = Run.create(tmp_path / "parts", recipe, name="test")
    go(recipe, parts, run, stop=2)
    again = assemble(recipe)
    start = conducting.restore(run, again)
    go(recipe, again, run, start=start)
    assert start == 2
    for ours, theirs in zip(again.ema.averages, whole.ema.averages, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(again.pair.parameters, whole.pair.parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_without_the_key_there_is_no_average(tiny_folders, tmp_path):
    _, parts, run = started(tiny_folders["sdxl"], tmp_path / "run", "train.ema=null")
    assert parts.ema is None
    path = conducting.save_checkpoint(run, parts, 1, keep=1)
    assert not (path / "ema.safetensors").exists()
