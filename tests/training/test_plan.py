"""The plan of a run: made without weights, and true to the run where it can be counted."""

import shutil

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.errors import MissingComponent
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training.assemble import assemble
from tdd_cli.training.plan import lines, make_plan, measured_rate

PLAIN = ("student.merge=false", "train.precision=fp32", "preview.prompts=[]")
SMALL = ("data.resolution=32", "student.rank=4", "train.device_batch=2", "train.global_batch=4")


@pytest.fixture
def skeleton(tiny_folders, tmp_path):
    """The tiny pipeline's folder without its weights."""
    folder = tmp_path / "skeleton"
    shutil.copytree(tiny_folders["sdxl"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_parameters_and_weights_are_those_of_the_run(tiny_folders, skeleton, tmp_path):
    AcceleratorState._reset_state(True)
    changes = (*SMALL, "train.precision=fp32")
    plan = make_plan(load_recipe("emoji-4to8", [f"model.path={skeleton}", *changes]), tmp_path)
    parts = assemble(load_recipe("emoji-4to8", [f"model.path={tiny_folders['sdxl']}", *changes]))
    assert plan.trainable == sum(p.numel() for p in parts.pair.parameters)
    assert plan.memory.weights == sum(p.nbytes for p in parts.family.net.parameters())
    assert plan.memory.optimizer == 2 * plan.memory.gradients == 8 * plan.trainable
    assert plan.pictures == 4 * load_recipe("emoji-4to8").train.steps
    assert plan.seconds is None


def test_an_average_is_one_more_copy_of_what_is_trained(skeleton, tmp_path):
    plain, averaged = (
        make_plan(load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, f"train.ema={ema}"]), tmp_path)
        for ema in ("null", "0.99")
    )
    assert averaged.memory.weights - plain.memory.weights == 4 * plain.trainable
    assert averaged.disk > plain.disk


def test_the_optimizers_state_is_counted(skeleton, tmp_path):
    recipe = load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, "train.optimizer=adamw8bit"])
    plan = make_plan(recipe, tmp_path)
    assert plan.memory.optimizer == 2 * plan.trainable


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(skeleton, tmp_path):
    def activations(*changes):
        recipe = load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, *PLAIN, *changes])
        return make_plan(recipe, tmp_path).memory.activations

    two = activations()
    assert activations("train.device_batch=4") == pytest.approx(2 * two, rel=0.05)
    assert activations("train.gradient_checkpointing=true") < two / 2


def test_a_cache_on_disk_is_counted_by_the_sample(skeleton, tmp_path):
    plan = {
        cache: make_plan(
            load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, f"data.cache={cache}"]), tmp_path
        )
        for cache in ("none", "latents", "all")
    }
    assert plan["none"].cached == 0 < plan["latents"].cached < plan["all"].cached
    recipe = load_recipe("emoji-4to8")
    assert "GiB of cache for every million samples" in "\n".join(lines(plan["all"], recipe))
    assert "cache" not in "\n".join(lines(plan["none"], recipe))


def test_a_measured_rate_gives_the_time(tmp_path):
    recipe = load_recipe("emoji-4to8")
    run = Run.create(tmp_path / "one", recipe, name="emoji-4to8")
    for rate in (1.0, 50.0, 60.0):
        run.log({"step": 1, "images_per_s": rate})
    assert measured_rate(recipe, tmp_path) == 50.0
    assert measured_rate(load_recipe("emoji-pcm"), tmp_path) is None


def test_the_dry_run_prints_the_recipe_and_the_plan_and_leaves_nothing(skeleton, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for change in (f"model.path={skeleton}", *SMALL) for word in ("--set", change)]
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(app, ["distill", "--dry-run", *words])
    assert done.exit_code == 0, done.output
    for part in ("resolution: 32", "parameters", "memory", "steps", "disk", "time         unknown"):
        assert part in done.stdout
    assert sorted(tmp_path.iterdir()) == before
    absent = CliRunner().invoke(app, ["distill", "--dry-run", "-r", "sdxl-4to8"])
    assert isinstance(absent.exception, MissingComponent)
