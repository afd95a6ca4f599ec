"""The plan of a run: made without weights, and true to the run where it can be counted."""

import shutil

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from tdd_cli.cli import app
from tdd_cli.errors import MissingComponent
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training import checkpoint
from tdd_cli.training.assemble import assemble
from tdd_cli.training.plan import checkpoints_kept, lines, make_plan
from tdd_cli.training.rates import device_name, likely_device, measured_rate
from tdd_cli.training.resume import amend

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
    assert plan.rate is None
    assert plan.disk.checkpoint == plan.memory.gradients + plan.memory.optimizer


def test_an_average_is_one_more_copy_of_what_is_trained(skeleton, tmp_path):
    plain, averaged = (
        make_plan(load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, f"train.ema={ema}"]), tmp_path)
        for ema in ("null", "0.99")
    )
    assert averaged.memory.weights - plain.memory.weights == 4 * plain.trainable
    assert averaged.disk.checkpoint - plain.disk.checkpoint == 4 * plain.trainable


def test_the_optimizers_state_is_counted(skeleton, tmp_path):
    recipe = load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, "train.optimizer=adamw8bit"])
    plan = make_plan(recipe, tmp_path)
    assert plan.memory.optimizer == 2 * plan.trainable


def test_without_a_device_batch_each_process_takes_its_share(skeleton, tmp_path):
    def activations(processes, *changes):
        recipe = load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, *PLAIN, *changes])
        return make_plan(recipe, tmp_path, processes=processes).memory.activations

    assert activations(2, "train.device_batch=null") == activations(1, "train.device_batch=2")


CHECKPOINTS = {  # every, keep, keep_every, steps -> newest and milestones while the last one is written
    (2, 2, 0, 4): (1, 0),
    (2, 2, 0, 20): (2, 0),
    (2, 2, 4, 20): (2, 3),  # 16 and 18, and 4, 8, 12
    (2, 1, 3, 20): (1, 2),  # 18, and 6, 12
    (50, 2, 50, 4): (0, 0),
}


@pytest.mark.parametrize("rules", CHECKPOINTS)
def test_the_checkpoints_there_are_at_the_most_are_those_of_a_run(tmp_path, rules):
    every, keep, keep_every, steps = rules
    changes = (f"checkpoint.every={every}", f"checkpoint.keep={keep}", f"checkpoint.keep_every={keep_every}")
    recipe = load_recipe("emoji-4to8", [*changes, f"train.steps={steps}", "train.warmup=0"])
    assert checkpoints_kept(recipe) == CHECKPOINTS[rules]
    most = 0
    for step in [*range(every, steps, every), steps]:
        (tmp_path / f"step-{step:06d}").mkdir()
        most = max(most, len(checkpoint.list_all(tmp_path)))
        checkpoint.prune(tmp_path, keep, milestones=keep_every)
    assert most == sum(CHECKPOINTS[rules]) + 1


def test_the_disk_is_what_a_full_student_with_milestones_takes(skeleton, tmp_path):
    changes = ("student.kind=full", "train.steps=20", "train.warmup=0", "checkpoint.every=2")
    recipe = load_recipe(
        "emoji-4to8", [f"model.path={skeleton}", *SMALL[:1], *changes, "checkpoint.keep_every=4"]
    )
    plan = make_plan(recipe, tmp_path)
    weights = 4 * plan.parameters
    assert plan.disk.result == weights
    assert plan.disk.total == (2 + 3 + 1) * 3 * weights + weights
    text = "\n".join(lines(plan, recipe))
    assert "(2 newest, 3 kept for good, 1 being written, " in text
    assert ", result " in text


def test_a_cache_of_prompts_is_counted_whole(skeleton, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox\nthe sun\n\na tree\n")
    changes = (
        "data.source=null", "data.prompts=prompts.txt", "data.per_prompt=4", "data.cache=all",
        "data.flip=false",
    )  # fmt: skip
    recipe = load_recipe("emoji-4to8", [f"model.path={skeleton}", *SMALL, *changes])
    plan = make_plan(recipe, tmp_path)
    assert plan.disk.samples == 12
    assert plan.disk.total == plan.disk.checkpoints + plan.disk.result + 12 * plan.disk.sample
    assert "of 12 samples" in "\n".join(lines(plan, recipe))
    (tmp_path / "prompts.txt").unlink()
    assert "for every million samples" in "\n".join(lines(make_plan(recipe, tmp_path), recipe))


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
    assert plan["none"].disk.sample == 0 < plan["latents"].disk.sample < plan["all"].disk.sample
    recipe = load_recipe("emoji-4to8")
    assert "GiB of cache for every million samples" in "\n".join(lines(plan["all"], recipe))
    assert "cache" not in "\n".join(lines(plan["none"], recipe))


@pytest.fixture
def measured(tmp_path):
    """A run of the default recipe, with another seed and fewer steps, at 50 images/s."""
    short = ("train.steps=400", "train.seed=7", "train.lr=1e-4", "target.reach=400")
    run = Run.create(tmp_path / "one", load_recipe("emoji-4to8", short), name="emoji-4to8")
    for rate in (1.0, 50.0, 60.0):
        run.log({"step": 1, "images_per_s": rate})
    return run


def test_a_run_of_the_same_kind_gives_the_time_whatever_its_seed_and_length(measured, tmp_path):
    recipe = load_recipe("emoji-4to8")
    rate = measured_rate(recipe, tmp_path)
    assert (rate.pictures, rate.run) == (50.0, measured.folder)
    plan = make_plan(recipe, tmp_path)
    clock = f"{1300 * 32 / 50 / 60:.0f} minutes at 50.0 images/s, as in {measured.folder}"
    assert clock in "\n".join(lines(plan, recipe))


@pytest.mark.parametrize(
    "change",
    [
        "target.rule=pcm", "data.resolution=32", "data.cache=latents", "student.rank=4",
        "student.merge=false", "train.global_batch=64", "train.device_batch=16", "train.ema=0.99",
        "train.gradient_checkpointing=true", "teacher.guidance=1", "train.precision=fp16",
    ],
)  # fmt: skip
def test_what_decides_how_fast_a_run_goes_makes_the_time_unknown(measured, tmp_path, change):
    assert measured_rate(load_recipe("emoji-4to8", [change]), tmp_path) is None


def test_rates_of_other_machines_and_numbers_of_processes_are_left_aside(measured, tmp_path):
    recipe = load_recipe("emoji-4to8")
    assert measured_rate(recipe, tmp_path, processes=2) is None
    amend(measured, processes=2, device=device_name(likely_device()))
    assert measured_rate(recipe, tmp_path, processes=2)
    assert measured_rate(recipe, tmp_path) is None
    amend(measured, processes=1, device=device_name("another device"))
    assert measured_rate(recipe, tmp_path) is None


def test_a_run_that_cannot_be_read_hides_no_other(measured, tmp_path):
    newer = Run.create(tmp_path / "two", load_recipe("emoji-4to8"), name="emoji-4to8")
    newer.recipe.write_text("of: another version")
    assert measured_rate(load_recipe("emoji-4to8"), tmp_path).run == measured.folder


def test_the_dry_run_prints_the_recipe_and_the_plan_and_leaves_nothing(skeleton, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for change in (f"model.path={skeleton}", *SMALL) for word in ("--set", change)]
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(app, ["distill", "--dry-run", *words])
    assert done.exit_code == 0, done.output
    for part in ("resolution: 32", "parameters", "memory", "steps", "disk", "time         unknown"):
        assert part in done.stdout
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(app, ["distill", "--dry-run", *words]).output == ""
    monkeypatch.setenv("RANK", "0")
    absent = CliRunner().invoke(app, ["distill", "--dry-run", "-r", "sdxl-4to8"])
    assert isinstance(absent.exception, MissingComponent)
