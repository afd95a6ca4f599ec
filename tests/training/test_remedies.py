"""What is advised when memory runs out: in the order of what it costs, and only what helps this recipe."""

import re

import pytest
import torch
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.errors import OutOfMemory
from tdd_cli.recipe import load_recipe
from tdd_cli.training.remedies import remedies

FULL = ("student.kind=full", "train.precision=fp32", "train.ema=0.99")


def changes(*overrides, name="sdxl-4to8"):
    return re.findall(r"--set (\S+)", remedies(load_recipe(name, list(overrides))))


def keys(*overrides):
    return [change.partition("=")[0] for change in changes(*overrides)]


def test_what_changes_no_result_comes_first_and_what_weakens_the_student_last():
    assert keys("train.gradient_checkpointing=false") == [
        "train.device_batch", "data.cache", "train.gradient_checkpointing", "student.rank", "data.resolution",
    ]  # fmt: skip
    assert keys(*FULL) == [
        "train.device_batch", "data.cache", "train.optimizer", "train.precision", "train.ema", "student.kind",
        "data.resolution",
    ]  # fmt: skip


def test_what_the_recipe_does_already_is_not_advised():
    taken = ("train.device_batch=1", "data.cache=all", "student.rank=16")
    assert changes(*taken) == ["data.resolution=512"]


@pytest.mark.parametrize("start", [(), FULL])
def test_every_advice_is_a_recipe(start):
    for change in changes(*start):
        load_recipe("sdxl-4to8", [*start, change])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
    ],
)
def test_out_of_memory_ends_with_the_remedies_and_exit_code_4(monkeypatch, tmp_path, error):
    def full(*arguments, **keywords):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tdd_cli.training.assemble.assemble", full)
    done = CliRunner().invoke(app, ["distill", "-r", "emoji-4to8"])
    assert isinstance(done.exception, OutOfMemory), done.output
    assert done.exception.exit_code == 4
    assert "out of memory" in done.exception.message
    assert remedies(load_recipe("emoji-4to8")) in done.exception.hint


def test_other_errors_stay_what_they_are(monkeypatch, tmp_path):
    def broken(*arguments, **keywords):
        raise RuntimeError("shapes do not fit")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tdd_cli.training.assemble.assemble", broken)
    assert isinstance(CliRunner().invoke(app, ["distill"]).exception, RuntimeError)
