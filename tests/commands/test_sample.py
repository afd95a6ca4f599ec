"""tdd sample, as typed."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.errors import DataError, MissingComponent, UsageError
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.run import Inference


def call(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


@pytest.fixture
def student(tiny_folders, tmp_path):
    """An adapter with inference.json beside it, as in a run folder."""
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, family.lora_targets, rank=2)
    save_lora(family.net, tmp_path / "adapter.safetensors", {})
    Inference(
        family="sdxl", model=str(tiny_folders["sdxl"]), method="tdd", teacher_grid=250, k_min=4, k_max=8,
        resolution=32, steps=5, guidance=1.0, eta=0.0, schedule="equal", clip_x0=0,
    ).save(tmp_path / "inference.json")  # fmt: skip
    return tmp_path / "adapter.safetensors"


def test_pictures_remember_their_making_and_settings_come_from_the_student(student, tmp_path):
    done = call(
        "a fox", "the sun", "--lora", student, "--n", 2, "--seed", 7, "--clip-x0", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    names = ["a-fox-7.png", "a-fox-8.png", "the-sun-9.png", "the-sun-10.png"]
    assert done.stdout.splitlines() == [str(tmp_path / "out" / name) for name in names]
    image = Image.open(tmp_path / "out" / "a-fox-8.png")
    record = json.loads(image.text["tdd"])
    assert image.size == (32, 32)
    assert (record["prompt"], record["seed"], record["steps"], record["clip_x0"]) == ("a fox", 8, 5, 1)
    assert "5 network calls each" in done.stderr


def test_nothing_is_overwritten(student, tmp_path):
    for _ in range(2):
        assert call("a fox", "--lora", student, "--out", tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-fox-0-2.png", "a-fox-0.png"]


def test_prompts_from_a_file(student, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\n\n  the moon \n")
    done = call("-f", tmp_path / "prompts.txt", "--lora", student, "--out", tmp_path / "out")
    assert len(done.stdout.splitlines()) == 2


def test_guidance_costs_two_calls_a_step(student, tmp_path):
    done = call("a fox", "--lora", student, "-g", 2, "-s", 4, "--out", tmp_path / "out")
    assert "8 network calls each" in done.stderr


def test_a_bare_model_can_be_sampled(tiny_folders, tmp_path):
    done = call(
        "a fox", "-m", tiny_folders["sd15"], "--family", "sd15", "--steps", 6, "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], UsageError, "no prompt given"),
        ([" "], DataError, "no prompt that is not empty"),
        (["-f", "absent.txt", "x"], DataError, "absent.txt: the prompts cannot be read"),
        (["a fox", "--run", "absent"], UsageError, "absent does not exist"),
        (["a fox", "--run", "x", "--model", "y"], UsageError, "x does not exist"),
        (["a fox", "--lora", "absent.safetensors"], UsageError, "no inference.json beside"),
        (["a fox", "--model", "absent-folder"], UsageError, "no model at absent-folder"),
        (["a fox", "--model", "model.ckpt"], UsageError, "model.ckpt is a pickle"),
        (["a fox", "--model", "x", "--family", "sd9"], UsageError, "unknown family 'sd9'"),
        (
            ["a fox", "--model", "bundled:emoji", "--steps", "251"],
            UsageError,
            "no equal schedule of 251 steps",
        ),
        (["a fox", "--model", "nobody/nothing"], MissingComponent, "nobody/nothing"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(monkeypatch, tmp_path, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call(*arguments)
    assert isinstance(done.exception, error), done.output
    assert message in done.exception.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "0"], ["--eta", "2"], ["--eta", "x"], ["--guidance", "-1"], ["--seed", "-1"], ["--n", "0"]],
)
def test_values_out_of_range_are_usage_errors(arguments):
    assert call("a fox", *arguments).exit_code == 2
