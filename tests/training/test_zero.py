"""DeepSpeed's ZeRO in two processes on one machine: the losses of one process, any run's checkpoints."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from processes import PROMPTS, check_same_training, distil, finished, needs_fork, outcome, start
from tdd_cli.errors import RecipeError, UsageError
from tdd_cli.training import loop
from tdd_cli.training.zero import check_recipe, hidden, zero_settings

ASKED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
SHORT = (*PROMPTS, "train.steps=2", "checkpoint.every=1", "preview.every=0")


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"a fox {i}\n" for i in range(7)))


@pytest.fixture
def installed(monkeypatch):
    """The settings are read before the package is looked at."""
    monkeypatch.setattr("tdd_cli.training.zero.require", lambda *args, **kwargs: None)


@needs_fork
@pytest.mark.parametrize("stage", ["1", "2"])
@pytest.mark.parametrize(
    "student", [("student.merge=true",), ("student.kind=full", "train.ema=0.9")], ids=["lora", "full"]
)
def test_students_train_as_one_process_does_and_resume(tiny_folders, tmp_path, prompts, student, stage):
    run = partial(distil, tiny_folders["sdxl"])
    asked, changes = {**ASKED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}, (*SHORT, *student)
    assert finished(start(partial(run, tmp_path / "whole", *changes), **asked)) == [0, 0]
    first = partial(run, tmp_path / "parts", *changes, options=("--max-steps", "1"))
    assert finished(start(first, **asked)) == [0, 0]
    assert finished(start(partial(run, tmp_path / "parts", *changes), **asked)) == [0, 0]
    run(tmp_path / "one", *changes)
    check_same_training(tmp_path / "whole", tmp_path / "one")
    (log, weights), (expected_log, expected) = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert log == expected_log
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    ours, theirs = (
        load_file(tmp_path / kind / "checkpoints" / "step-000002" / "optimizer.safetensors")
        for kind in ("whole", "one")
    )
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


@needs_fork
def test_a_run_goes_on_without_deepspeed_and_with_it(tiny_folders, tmp_path, prompts):
    run = partial(distil, tiny_folders["sdxl"])
    first = partial(run, tmp_path / "run", *SHORT, "train.steps=3", options=("--max-steps", "1"))
    assert finished(start(first, **ASKED)) == [0, 0]
    run(tmp_path / "run", *SHORT, "train.steps=3", options=("--max-steps", "2"))
    assert finished(start(partial(run, tmp_path / "run", *SHORT, "train.steps=3"), **ASKED)) == [0, 0]
    run(tmp_path / "one", *SHORT, "train.steps=3")
    check_same_training(tmp_path / "run", tmp_path / "one")


@needs_fork
def test_a_step_that_is_not_finite_changes_nothing(tiny_folders, tmp_path, prompts, monkeypatch):
    calls, plain = [], loop.micro_loss

    def broken_once(*arguments):
        calls.append(None)
        return plain(*arguments) * (float("nan") if len(calls) == 1 else 1)

    monkeypatch.setattr(loop, "micro_loss", broken_once)
    run = partial(distil, tiny_folders["sdxl"], tmp_path / "run", *SHORT)
    assert finished(start(run, **ASKED)) == [0, 0]
    log, weights = outcome(tmp_path / "run")
    assert [record.get("skipped", False) for record in log] == [True, False]
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "stages 1 and 2.* has stage 3"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "has stage 0"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer is not supported"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "absent.json"}, "absent.json is not a configuration"),
    ],
)
def test_what_cannot_be_right_is_refused(installed, changes, words):
    with pytest.raises(UsageError, match=words):
        zero_settings({**ASKED, **changes})


def test_a_file_says_how_zero_works_and_nothing_that_the_recipe_says(installed, tmp_path):
    file = tmp_path / "zero.json"
    environment = {**ASKED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    file.write_text(json.dumps({"zero_optimization": {"stage": 1, "overlap_comm": True}}))
    assert zero_settings(environment) == {"stage": 1, "overlap_comm": True}
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}))
    with pytest.raises(UsageError, match="has bf16, which the recipe decides"):
        zero_settings(environment)


@pytest.mark.parametrize(
    ("optimizer", "precision", "words"),
    [("prodigy", "bf16", "train.optimizer prodigy"), ("adamw", "fp16", "train.precision fp16")],
)
def test_a_recipe_that_cannot_be_right_is_refused(optimizer, precision, words):
    with pytest.raises(RecipeError, match=words):
        check_recipe(optimizer=optimizer, precision=precision)


def test_accelerate_is_not_told(installed):
    environment = dict(ASKED)
    with hidden(environment):
        assert "ACCELERATE_USE_DEEPSPEED" not in environment
    assert environment == ASKED
    assert zero_settings({}) is None
