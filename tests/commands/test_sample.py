"""tdd sample, as typed."""

import json

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.errors import DataError, MissingComponent, OutOfMemory, UsageError
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.inference import Inference


def call(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


@pytest.fixture
def student(tiny_folders, tmp_path):
    """An adapter with inference.json beside it, as in a run folder."""
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, family.lora_targets, rank=2)
    save_lora(family.net, tmp_path / "adapter.safetensors", {})
    Inference(
        family="sdxl",
        model=str(tiny_folders["sdxl"]),
        method="tdd",
        teacher_grid=250,
        k_min=4,
        k_max=8,
        resolution=32,
        steps=5,
        guidance=1.0,
        eta=0.0,
        schedule="equal",
        clip_x0=0,
    ).save(tmp_path / "inference.json")
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


def test_a_picture_is_drawn_again_from_what_its_file_says(student, tmp_path):
    first = call(
        "a fox",
        "--lora",
        student,
        "-s",
        4,
        "-g",
        "2,2,1,1",
        "--eta",
        0.2,
        "--clip-x0",
        2,
        "--clip-high",
        3,
        "--seed",
        5,
        "--negative",
        "the sun",
        "--out",
        tmp_path / "a",
    )
    assert first.exit_code == 0, first.output
    again = call("--like", tmp_path / "a" / "a-fox-5.png", "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output
    one, other = (Image.open(tmp_path / folder / "a-fox-5.png") for folder in "ab")
    assert one.tobytes() == other.tobytes()
    assert one.text == other.text
    changed = call("--like", tmp_path / "a" / "a-fox-5.png", "--seed", 6, "--out", tmp_path / "b")
    assert changed.stdout.strip() == str(tmp_path / "b" / "a-fox-6.png")


def test_json_says_where_with_what_how_long_and_how_many_calls(student, tmp_path):
    done = call("a fox", "--lora", student, "-s", 4, "-g", "2@1-2", "--json", "--out", tmp_path / "out")
    said = json.loads(done.stdout)
    assert (said["path"], said["seed"], said["network_calls"]) == (
        str(tmp_path / "out" / "a-fox-0.png"),
        0,
        6,
    )
    assert said["seconds"] > 0
    assert said["guidance"] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    "clip", [["--clip-x0", "a fox"], ["a fox", "--clip-x0"], ["a fox", "--clip-x0", "1"]]
)
def test_clip_x0_stands_with_and_without_its_number(student, tmp_path, clip):
    done = call(*clip, "--lora", student, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads(Image.open(tmp_path / "out" / "a-fox-0.png").text["tdd"])["clip_x0"] == 1


def test_compare_and_sweep_make_one_labelled_picture(student, tmp_path):
    done = call(
        "a fox",
        "the sun",
        "--lora",
        student,
        "--compare",
        "teacher:5,4,6",
        "--sweep",
        "clip-x0=off,on",
        "--json",
        "--out",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["compare.png"]
    assert [(way["by"], way["steps"], way["clip_x0"], way["network_calls"]) for way in said["ways"]] == [
        ("teacher", 5, 0, 10),
        ("student", 4, 0, 4),
        ("student", 6, 0, 6),
        ("student", 4, 1, 4),
        ("student", 6, 1, 6),
    ]


def test_the_grid_has_a_row_for_each_prompt(student, tmp_path):
    done = call("a fox", "the sun", "--lora", student, "--n", 3, "--grid", "--out", tmp_path / "out")
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out" / "grid.png")
    width, height = Image.open(tmp_path / "out" / "grid.png").size
    assert width > 3 * 128
    assert 2 * 128 < height < 3 * 128


def test_a_picture_to_start_from_and_a_mask(student, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "init.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    mask.save(tmp_path / "mask.png")
    done = call(
        "a fox",
        "--lora",
        student,
        "-s",
        4,
        "--init",
        tmp_path / "init.png",
        "--mask",
        tmp_path / "mask.png",
        "--strength",
        0.5,
        "--out",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    assert "2 network calls each" in done.stderr
    image = Image.open(tmp_path / "out" / "a-fox-0.png")
    assert image.crop((0, 0, 16, 32)).getcolors() == [(16 * 32, (255, 0, 0))]


def test_a_control_net_from_disk_and_a_style_beside_the_student(student, tiny_folders, tmp_path):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    ControlNetModel.from_unet(family.net, conditioning_embedding_out_channels=(8, 16)).save_pretrained(
        tmp_path / "c"
    )
    add_lora(family.net, ["to_q"], rank=2)
    (tmp_path / "styles").mkdir()
    save_lora(family.net, tmp_path / "styles" / "style.safetensors", {})
    Image.new("RGB", (32, 32), "white").save(tmp_path / "edges.png")
    done = call(
        "a fox",
        "--lora",
        f"{tmp_path / 'styles' / 'style.safetensors'}:0.5",
        "--lora",
        student,
        "--control",
        f"{tmp_path / 'c'}:{tmp_path / 'edges.png'}:0.8",
        "--out",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    record = json.loads(Image.open(tmp_path / "out" / "a-fox-0.png").text["tdd"])
    assert record["weights"][0]["path"] == str(student)  # the one with inference.json, whatever the order
    assert (record["styles"][0]["scale"], record["controls"][0]["scale"], record["steps"]) == (0.5, 0.8, 5)


def test_a_student_goes_on_another_base_of_its_family(student, tiny_folders, tmp_path):
    done = call("a fox", "--lora", student, "--model", tiny_folders["sdxl"], "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "5 network calls" in done.stderr  # its own settings, not a bare model's


def test_memory_savers_and_the_compiler_draw_the_same_picture(student, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda net, mode: net)
    for name, options in {
        "plain": [],
        "saving": ["--offload", "--vae-tiling", "--compile", "--batch", 1],
    }.items():
        done = call("a fox", "--lora", student, *options, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    one, other = (Image.open(tmp_path / name / "a-fox-0.png").tobytes() for name in ("plain", "saving"))
    assert one == other


def test_out_of_memory_is_answered_with_what_helps_here(student, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("tdd_cli.generate.sample", full)
    done = call("a fox", "--lora", student, "--out", tmp_path / "out")
    assert isinstance(done.exception, OutOfMemory)
    assert "--offload" in done.exception.hint


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
        (["a fox", "--lora", "absent.safetensors"], UsageError, "no LoRA file at absent.safetensors"),
        (["a fox", "--model", "absent-folder"], UsageError, "no model at absent-folder"),
        (["a fox", "--model", "model.ckpt"], UsageError, "model.ckpt is a pickle"),
        (["a fox", "--model", "x", "--family", "sd9"], UsageError, "unknown family 'sd9'"),
        (
            ["a fox", "--model", "bundled:emoji", "--steps", "251"],
            UsageError,
            "no equal schedule of 251 steps",
        ),
        (["a fox", "--steps", "12"], UsageError, "distilled for 4..8 steps"),
        (["a fox", "--guidance", "x"], UsageError, "--guidance x: 'x' is not a number"),
        (["a fox", "--guidance", "2,1"], UsageError, "2 guidance scales for 4 steps"),
        (["a fox", "--schedule", "late"], UsageError, "--schedule late: must be equal, early"),
        (["a fox", "--guidance-mode", "x"], UsageError, "must be cfg or post"),
        (["a fox", "--strength", "0.5"], UsageError, "--strength is of a given picture"),
        (["a fox", "--mask", "m.png"], UsageError, "--mask says what of a picture"),
        (["a fox", "--init", "absent.png"], DataError, "absent.png: the picture cannot be read"),
        (["a fox", "--control", "canny"], UsageError, "--control must be TYPE:IMAGE"),
        (["a fox", "--control", "canny:absent.png"], DataError, "absent.png: the picture cannot be read"),
        (["a fox", "--compare", "all"], UsageError, "--compare all"),
        (["a fox", "--sweep", "x=1"], UsageError, "is not SETTING=VALUE"),
        (["a fox", "--compare", "4", "--grid"], UsageError, "--grid is of single pictures"),
        (["a fox", "--size", "big"], UsageError, "--size must be WIDTH"),
        (["a fox", "--batch", "0"], UsageError, "--batch must be auto or a number"),
        (["--like", "absent.png"], DataError, "absent.png: the picture cannot be read"),
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
    [
        *(["--steps", "0"], ["--eta", "2"], ["--eta", "x"], ["--seed", "-1"], ["--n", "0"]),
        *(["--strength", "2"], ["--teacher-guidance", "0"], ["--clip-ratio", "x"]),
    ],
)
def test_values_out_of_range_are_usage_errors(arguments):
    assert call("a fox", *arguments).exit_code == 2
