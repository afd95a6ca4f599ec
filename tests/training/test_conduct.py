"""Whole runs on random tiny pipelines: they end, resume to the bit, and what they save loads."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from tdd_cli.data.random import Use, seed_at
from tdd_cli.errors import TddError
from tdd_cli.families import load_family
from tdd_cli.generate import Sampling, draw
from tdd_cli.inference import Inference
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training import conduct as conducting
from tdd_cli.training import extras
from tdd_cli.training.assemble import assemble
from tdd_cli.training.descent import update
from tdd_cli.training.optimizers import OPTIMIZERS, Choice
from tdd_cli.training.prepare import draw_latents
from tdd_cli.training.stock import sample_bytes
from tdd_cli.training.trackers import TRACKERS

SMALL = (
    "train.steps=6", "train.warmup=2", "train.global_batch=4", "train.device_batch=2", "data.resolution=32",
    "checkpoint.every=2", "preview.every=0", "preview.prompts=[a fox]", "train.precision=fp32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """One process runs several runs here, each with its own precision."""
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Ten pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        Image.new("RGB", (40, 48), (25 * i, 0, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a fox {i}")
    return folder


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


def test_a_compiled_network_is_the_same_run_under_its_own_names(tiny_folders, tmp_path):
    changes = ("student.merge=false", "train.steps=3", "train.ema=0.9")
    plain, _, _ = run(recipe_for(tiny_folders["sdxl"], *changes), tmp_path / "plain")
    recipe = recipe_for(tiny_folders["sdxl"], *changes, "train.compile=true")
    with torch.compiler.set_stance("force_eager"):  # all but the minutes that compiling takes
        run(recipe, tmp_path / "parts", stop=2)
        parts, _, reload = run(recipe, tmp_path / "parts", resume=True)
        assert isinstance(assemble(recipe).family.net, torch._dynamo.OptimizedModule)
    assert reload.ok
    assert losses(parts) == losses(plain)
    ours, theirs = load_file(parts.adapter), load_file(plain.adapter)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_channels_last_is_another_layout_of_the_same_run(tiny_folders, tmp_path):
    changes = ("model.family=sd15", "student.kind=full", "preview.prompts=[]", "train.steps=3")
    plain, _, _ = run(recipe_for(tiny_folders["sd15"], *changes), tmp_path / "plain")
    recipe = recipe_for(tiny_folders["sd15"], *changes, "train.channels_last=true", "checkpoint.every=1")
    whole, _, _ = run(recipe, tmp_path / "whole")
    for (_, ours, _), (_, theirs, _) in zip(losses(whole), losses(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    run(recipe, tmp_path / "parts", stop=1)
    parts, _, _ = run(recipe, tmp_path / "parts", resume=True)
    assert losses(parts) == losses(whole)
    name = "student/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(parts.folder / name), load_file(whole.folder / name)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    kernel = assemble(recipe).family.net.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()


def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_said(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"], "train.steps=3", "checkpoint.every=1", "preview.prompts=[]")
    whole, _, _ = run(recipe, tmp_path / "whole")
    made, _, _ = run(recipe, tmp_path / "parts", stop=2)
    newest = made.checkpoints / "step-000002" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    parts, said = assemble(recipe), []
    start = conducting.restore(made, parts, say=said.append)
    assert (start, len(said)) == (1, 1)
    assert "step-000002 cannot be read" in said[0]
    assert "trying the one before" in said[0]
    list(conducting.conduct(recipe, made, parts, start=start, stop=3, halt=lambda: False))
    assert losses(made) == losses(whole)


class Kept:
    """A tracker that keeps the steps it is told of."""

    def __init__(self, run):
        self.steps = []

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step):
        self.steps.append(step)

    def finish(self):
        self.steps.append("finished")


def test_the_optimizer_and_the_trackers_of_the_recipe_are_used(tiny_folders, tmp_path, monkeypatch):
    kept, used = [], []

    def sgd(parameters, lr, weight_decay):
        used.append(torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay))
        return used[-1]

    monkeypatch.setattr(extras, "find_spec", lambda package: "found")
    monkeypatch.setitem(OPTIMIZERS, "adamw8bit", Choice(sgd, 4, "bitsandbytes", "8bit"))
    monkeypatch.setitem(TRACKERS, "wandb", lambda run: kept.append(Kept(run)) or kept[-1])
    changes = ("train.optimizer=adamw8bit", "train.trackers=[wandb]", "preview.prompts=[]", "train.steps=3")
    run(recipe_for(tiny_folders["sdxl"], *changes), tmp_path / "run")
    assert kept[0].steps == [1, 2, 3, "finished"]
    assert kept[0].settings["train.optimizer"] == "adamw8bit"
    assert used[0].state_dict()["state"]


def test_micro_batches_add_up_to_the_batch(tiny_folders, tmp_path):
    whole, _, _ = run(recipe_for(tiny_folders["sdxl"], "train.device_batch=4"), tmp_path / "whole")
    parts, _, _ = run(recipe_for(tiny_folders["sdxl"], "train.device_batch=1"), tmp_path / "parts")
    for (_, ours, _), (_, theirs, _) in zip(losses(parts), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("cache", ["memory", "latents"])
def test_a_cache_of_latents_changes_nothing(tiny_folders, pictures, tmp_path, cache):
    changes = (f"data.source={pictures}", "train.steps=3", f"data.cache_folder={tmp_path / 'cache'}")
    plain, _, _ = run(recipe_for(tiny_folders["sdxl"], *changes, "data.cache=none"), tmp_path / "plain")
    cached, _, _ = run(recipe_for(tiny_folders["sdxl"], *changes, f"data.cache={cache}"), tmp_path / "run")
    for (_, ours, _), (_, theirs, _) in zip(losses(cached), losses(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # the encoder rounds by the batch it is given


@pytest.mark.parametrize("cache", ["none", "latents"])
def test_damaged_pictures_are_counted_and_stop_nothing(tiny_folders, pictures, tmp_path, cache):
    shutil.copytree(pictures, tmp_path / "damaged")
    (tmp_path / "damaged" / "3.png").write_bytes(b"damaged")
    changes = (f"data.source={tmp_path / 'damaged'}", f"data.cache_folder={tmp_path / 'cache'}")
    recipe = recipe_for(tiny_folders["sdxl"], *changes, f"data.cache={cache}", "preview.prompts=[]")
    made, _, reload = run(recipe, tmp_path / "run")
    assert reload.ok
    counted = sum(record.get("left_out", {}).get("unreadable picture", 0) for record in made.records())
    before = assemble(recipe).stock.left_out.get("unreadable picture", 0)
    assert (counted > 0, before) == ((True, 0) if cache == "none" else (False, 1))


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_a_cache_of_all_needs_no_encoder_and_resumes(tiny_folders, pictures, tmp_path, family):
    changes = (f"model.family={family}", f"data.source={pictures}", "data.cache=all", "train.steps=4")
    recipe = recipe_for(tiny_folders[family], *changes, f"data.cache_folder={tmp_path / 'cache'}")
    whole, _, reload = run(recipe, tmp_path / "whole")
    assert reload.ok
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    run(recipe, tmp_path / "parts", stop=2)
    parts, _, _ = run(recipe, tmp_path / "parts", resume=True)
    assert losses(parts) == losses(whole)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == times
    foreseen = 10 * sample_bytes(recipe, load_family(family, str(tiny_folders[family])), text=True)
    assert sum(file.stat().st_size for file in times) == pytest.approx(foreseen, rel=0.1)
    pipe = assemble(recipe).family.pipe
    assert pipe.text_encoder is None
    assert pipe.vae.encoder is None


def test_shapes_other_than_squares_are_trained_on(tiny_folders, tmp_path):
    source = tmp_path / "wide"
    source.mkdir()
    for i, size in enumerate([(64, 32), (32, 64), (40, 40)] * 4):
        Image.new("RGB", size, (20 * i, 0, 0)).save(source / f"{i}.png")
        (source / f"{i}.txt").write_text(f"a fox {i}")
    changes = (f"data.source={source}", "data.cache=latents", "data.max_aspect=4", "preview.prompts=[]")
    recipe = recipe_for(tiny_folders["sdxl"], *changes, f"data.cache_folder={tmp_path / 'cache'}")
    _, _, reload = run(recipe, tmp_path / "run")
    assert reload.ok
    shapes = {tuple(shape) for shape in assemble(recipe).stock.stream.contents.shapes}
    assert len(shapes) == 3


def test_prompts_alone_are_enough(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox\nthe sun\na red tree\n")
    changes = (
        "data.source=null", "data.prompts=prompts.txt", "data.cache=all", "data.flip=false",
        "data.per_prompt=2", "data.teacher_steps=3",
    )  # fmt: skip
    recipe = recipe_for(tiny_folders["sdxl"], *changes)
    _, _, reload = run(recipe, tmp_path / "whole")
    assert reload.ok
    [cache] = (tmp_path / "cache").iterdir()
    contents = assemble(recipe).stock.stream.contents
    assert len(contents) == 6
    made = [contents.read(number, ["x0"])[0]["x0"] for number in range(6)]
    assert [contents.read(number, [])[1]["captions"] for number in (1, 2)] == [["a fox"], ["the sun"]]
    assert not torch.equal(made[0], made[1])
    (cache / "part-00000.json").unlink()
    again = assemble(recipe_for(tiny_folders["sdxl"], *changes, "train.device_batch=4")).stock.stream.contents
    for number, x0 in enumerate(made):
        torch.testing.assert_close(again.read(number, ["x0"])[0]["x0"], x0, rtol=1e-3, atol=1e-3)


def test_latents_made_of_prompts_are_what_the_teacher_draws(tiny_folders):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    seed = seed_at(5, Use.TEACHER, 1)
    [part] = draw_latents(
        family, ["a fox"], range(2), per_prompt=2, size=(32, 32), steps=4, guidance=3.0, seed=5, text=False,
        dtype=torch.float32, batch=2,
    )  # fmt: skip
    drawn = draw(family, ["a fox"], [seed], Sampling(steps=4, guidance=3.0), size=(32, 32))
    with torch.no_grad():
        ours = family.decode(part.entries[1].tensors["x0"][None])
    torch.testing.assert_close(ours, drawn, rtol=1e-3, atol=1e-3)


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
    assert conducting.finish(recipe, made, parts).ok
    saved = load_file(made.folder / "student" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in parts.pair.state().items())


def test_halting_saves_and_does_nothing_more(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"], "checkpoint.every=100")
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    answers = iter([False, False, True])
    reports = list(conducting.conduct(recipe, made, parts, start=0, stop=6, halt=lambda: next(answers)))
    assert reports[-1].saved == made.checkpoints / "step-000003"
    assert [step for step, *_ in losses(made)] == [1, 2, 3]


def test_updates_that_are_not_finite_are_skipped_and_too_many_end_the_run(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"], "train.max_bad_steps=2")
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    reports = conducting.conduct(recipe, made, parts, start=0, stop=6, halt=lambda: False)
    while (report := next(reports)).saved is None:
        pass
    with torch.no_grad():
        parts.pair.parameters[1].fill_(float("nan"))
    others = [parameter.clone() for parameter in parts.pair.parameters[2:]]
    with pytest.raises(TddError, match="2 updates in a row were skipped, up to step 4") as raised:
        list(reports)
    assert str(report.saved) in raised.value.hint
    assert all(torch.equal(a, b) for a, b in zip(parts.pair.parameters[2:], others, strict=True))
    skipped = [record for record in made.records() if record.get("skipped")]
    assert [record["step"] for record in skipped] == [3, 4]
    assert skipped[0]["loss"] is None


def test_one_bad_batch_costs_one_update(tiny_folders, tmp_path):
    recipe = recipe_for(tiny_folders["sdxl"])
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="test")
    steps = conducting.conduct(recipe, made, parts, start=0, stop=6, halt=lambda: False)
    handle = parts.pair.parameters[3].register_hook(lambda grad: grad * float("inf"))
    next(steps)
    handle.remove()
    list(steps)
    records = list(made.records())
    assert [record.get("skipped", False) for record in records] == [True] + [False] * 5
    assert all(torch.isfinite(parameter).all() for parameter in parts.pair.parameters)


@pytest.mark.parametrize("cache", ["none", "latents"])
def test_a_vae_that_overflows_is_found_before_the_first_step(tiny_folders, pictures, tmp_path, cache):
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folders["sdxl"])
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.fill_(float("inf"))
    pipe.save_pretrained(tmp_path / "model")
    changes = (f"data.source={pictures}", f"data.cache={cache}", f"data.cache_folder={tmp_path / 'cache'}")
    with pytest.raises(TddError, match="latents that are not finite") as raised:
        run(recipe_for(tmp_path / "model", *changes, "preview.prompts=[]"), tmp_path / "run")
    assert "float32 weights" in raised.value.hint


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_skipped_update_leaves_everything_as_it_was(optimizer):
    weight = torch.nn.Parameter(torch.ones(3))
    fused = {"fused": True} if optimizer is torch.optim.AdamW else {"momentum": 0.9}
    made = optimizer([weight], 0.1, **fused)
    for gradient in (1.0, float("nan"), 1.0):
        weight.grad = torch.full((3,), gradient)
        before = weight.detach().clone()
        update(made, weight.grad.norm(), scaled=False)
        assert torch.equal(weight, before) == (gradient != gradient)
    again = torch.nn.Parameter(torch.ones(3))
    plain = optimizer([again], 0.1, **fused)
    for _ in range(2):
        again.grad = torch.ones(3)
        plain.step()
    assert torch.equal(weight, again)


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


def test_a_full_student_that_does_not_load_as_trained_is_not_left_behind(tiny_folders, tmp_path, monkeypatch):
    recipe = recipe_for(tiny_folders["sd15"], "model.family=sd15", "student.kind=full")
    parts, made = assemble(recipe), Run.create(tmp_path / "run", recipe, name="full")
    honest = type(parts.family.net).save_pretrained

    def lossy(net, folder, **keywords):
        honest(net, folder, **keywords)
        with torch.no_grad():
            parts.pair.parameters[0].mul_(1.5)

    monkeypatch.setattr(type(parts.family.net), "save_pretrained", lossy)
    with pytest.raises(TddError, match=r"the student does not load as it was trained: modules \d+/\d+"):
        conducting.finish(recipe, made, parts)
    assert not (made.folder / "student").exists()
    assert not made.inference.exists()


def test_a_full_students_teacher_is_kept_and_computes_in_the_runs_16_bits(tiny_folders, tmp_path):
    recipe = recipe_for(
        tiny_folders["sd15"], "model.family=sd15", "student.kind=full", "train.precision=bf16"
    )
    parts = assemble(recipe)
    assert {parameter.dtype for parameter in parts.pair.frozen.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in parts.pair.parameters} == {torch.float32}
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500])
    cond = parts.family.encode_prompts(["a fox"])
    seen = []
    some = next(m for m in parts.pair.frozen.modules() if isinstance(m, torch.nn.Linear))
    some.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    with torch.no_grad():
        teacher, student = (net(x, t, cond) for net in (parts.pair.teacher, parts.pair.student))
    assert seen == [torch.bfloat16]
    assert torch.allclose(teacher, student, atol=0.05 * student.abs().max().item())
    made = Run.create(tmp_path / "run", recipe, name="full")
    list(conducting.conduct(recipe, made, parts, start=0, stop=1, halt=lambda: False))
    assert conducting.finish(recipe, made, parts).ok


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
