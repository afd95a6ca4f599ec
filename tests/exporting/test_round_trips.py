"""Exports: every format brings the student back, in plain diffusers too, or nothing is left behind."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tdd_cli.bundled.emoji import STUDENT
from tdd_cli.errors import TddError
from tdd_cli.exporting import formats
from tdd_cli.exporting.export import DTYPES, open_student, shrink, write_student
from tdd_cli.exporting.formats import EXPORTERS
from tdd_cli.families import FAMILIES, load_family
from tdd_cli.families.lora import add_lora, folded_state, lora_modules, lora_parameters, save_lora
from tdd_cli.generate import Sampling, draw
from tdd_cli.inference import Inference
from tdd_cli.scheduler import TDDScheduler
from tdd_cli.student import described

RANK = 4


@pytest.fixture(scope="session")
def students(tiny_folders, tmp_path_factory):
    """For each family an adapter that does something, alpha not its rank, as a file with its settings."""
    root, found = tmp_path_factory.mktemp("students"), {}
    for name in FAMILIES:
        family = load_family(name, str(tiny_folders[name]))
        add_lora(family.net, family.lora_targets, rank=RANK, alpha=3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in lora_parameters(family.net):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_lora(family.net, root / f"{name}.safetensors", {})
        found[name] = settings(name, tiny_folders[name]), root / f"{name}.safetensors"
    return found


def settings(family, model, **changes):
    return Inference(
        family=family, model=str(model), method="tdd", teacher_grid=250, k_min=4, k_max=8, resolution=32,
        steps=4, guidance=1.0, eta=0.0, schedule="equal", clip_x0=0,
    ).model_copy(update=changes)  # fmt: skip


def write(student, folder, kind, **more):
    inference, weights = student
    return write_student(open_student(inference, weights), inference, folder, kind=kind, **more)


def broken(monkeypatch, kind, write):
    monkeypatch.setitem(EXPORTERS, kind, replace(EXPORTERS[kind], write=write))


# --- round trips ---


@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_format_brings_a_tiny_student_back(students, tmp_path, name, kind):
    done = write(students[name], tmp_path / "out", kind)
    assert done.reload.ok
    assert done.reload.matched == done.reload.total > 50
    assert done.reload.delta < 1e-5
    assert done.weights.exists()
    assert {"inference.json", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("kind", EXPORTERS)
def test_every_format_brings_the_bundled_student_back(tmp_path, kind):
    inference = Inference.load(STUDENT / "inference.json")
    student = open_student(inference, STUDENT / "adapter.safetensors")
    modules = len(lora_modules(student.net))
    done = write_student(student, inference, tmp_path / "out", kind=kind)
    assert done.reload.ok
    assert not EXPORTERS[kind].adapter or done.reload.total == modules


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", EXPORTERS)
def test_half_precision_is_half_the_size_and_nearly_the_student(students, tmp_path, kind, dtype):
    whole = write(students["sdxl"], tmp_path / "whole", kind)
    done = write(students["sdxl"], tmp_path / "half", kind, dtype=DTYPES[dtype])
    assert done.reload.ok
    assert 0 < done.reload.delta <= done.reload.allowed
    first = next(done.weights.rglob("*model.safetensors")) if kind == "merged" else done.weights
    values = [value for value in load_file(first).values() if value.ndim]
    assert {value.dtype for value in values} == {DTYPES[dtype]}
    assert size(done.weights) < 0.75 * size(whole.weights)


def size(path):
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def test_a_whole_network_is_a_student_too(tiny_folders, tmp_path):
    """A full fine-tune: all of its weights are in the model, none of the base network's."""
    net = load_family("sdxl", str(tiny_folders["sdxl"])).net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.01)
    net.save_pretrained(tmp_path / "student")
    inference = settings("sdxl", tiny_folders["sdxl"], student="full")
    done = write((inference, tmp_path / "student"), tmp_path / "out", "merged")
    assert done.reload.ok
    found = load_family("sdxl", str(done.weights)).net.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in net.state_dict().items())


def test_strength_is_multiplied_in(students, tmp_path):
    inference, weights = students["sd15"]
    student = open_student(inference, weights, scale=0.5)
    done = write_student(student, inference, tmp_path / "out", kind="safetensors")
    before, after = load_file(weights), load_file(done.weights)
    assert all(
        torch.equal(after[key], value * (0.5 if "lora_B" in key else 1)) for key, value in before.items()
    )


def test_a_compressed_adapter_is_smaller_and_checked_as_such(students, tmp_path):
    inference, weights = students["sdxl"]
    student = open_student(inference, weights)
    assert shrink(student, RANK) < 1e-5
    assert 0.1 < shrink(student, 1) < 1
    done = write_student(student, inference, tmp_path / "out", kind="kohya")
    assert done.reload.ok
    assert size(done.weights) < 0.5 * size(weights)
    alphas = {float(value) for key, value in load_file(done.weights).items() if key.endswith(".alpha")}
    assert alphas == {1.0}


# --- in plain diffusers ---

RUN_CARDS = """
import sys, os, torch
folder, codes = sys.argv[1], sys.argv[2:]
for code in codes:
    place = os.path.dirname(code)
    os.chdir(place)
    exec(open(code).read())
assert not [name for name in sys.modules if name.startswith("tdd")], "plain diffusers, they say"
"""


def test_the_cards_code_draws_the_students_pictures_without_tdd(students, tmp_path):
    """What a README says is run as it stands, but for the seed and the base model's place."""
    wanted, codes = {}, []
    for name, kind, eta in [
        ("sdxl", "safetensors", 0.0),
        ("sd15", "kohya", 0.0),
        ("sdxl", "kohya", 0.3),
        ("sd15", "merged", 0.0),
        ("sdxl", "single-file", 0.0),
    ]:
        inference = students[name][0].model_copy(update={"eta": eta})
        folder = tmp_path / f"{name}-{kind}"
        write((inference, students[name][1]), folder, kind)
        code = re.search(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
        code = code.replace("path/to/the/base/model", inference.model)
        code = code.replace(').images[0].save("fox.png")', ', output_type="pt", generator=G).images[0]')
        code = "import torch\nG = torch.Generator().manual_seed(7)\n" + code
        code = code.replace('\npipe("a fox"', '\nimage = pipe("a fox"') + '\ntorch.save(image, "fox.pt")\n'
        (folder / "code.py").write_text(code)
        codes.append(str(folder / "code.py"))
        pixels = draw(open_student(*students[name]), ["a fox"], [7], Sampling.of(inference), size=(32, 32))
        wanted[folder] = pixels[0] / 2 + 0.5
    plain = subprocess.run(
        [sys.executable, "-c", RUN_CARDS, str(tmp_path), *codes],
        capture_output=True, text=True, timeout=600, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    for folder, pixels in wanted.items():
        image = torch.load(folder / "fox.pt", weights_only=True)
        tolerance = 0.1 if "kohya" in folder.name and "sdxl" in folder.name else 1e-4  # TCD stops at t = 0
        torch.testing.assert_close(image, pixels, atol=tolerance, rtol=0, msg=lambda m: f"{folder.name}: {m}")  # noqa: B023


def test_a_merged_folder_has_our_schedulers_configuration(students, tmp_path):
    inference = students["sdxl"][0].model_copy(
        update={"schedule": "early", "clip_x0": 1, "teacher_grid": 50, "clip_low": 2.0, "clip_high": 3.0}
    )
    done = write((inference, students["sdxl"][1]), tmp_path / "out", "merged")
    ours = TDDScheduler.from_pretrained(done.weights, subfolder="scheduler").config
    assert (ours.teacher_timesteps, ours.schedule, ours.clip_x0_steps) == (50, "early", 1)
    assert (ours.sample_min_value, ours.sample_max_value, ours.prediction_type) == (2.0, 3.0, "epsilon")
    index = json.loads((done.weights / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "TCDScheduler"]


def test_a_merged_folder_draws_nearly_the_same_pictures_by_the_number_of_steps(tmp_path):
    """Its scheduler visits our times, and stops a little before x0."""
    inference = Inference.load(STUDENT / "inference.json").model_copy(update={"steps": 6})
    student = open_student(inference, STUDENT / "adapter.safetensors")
    prompts, seeds = ["a fox", "a red apple", "a rocket", "a castle"], [0, 1, 2, 3]
    ours = draw(student, prompts, seeds, Sampling.of(inference), size=inference.size)
    done = write_student(student, inference, tmp_path / "out", kind="merged")
    pipe = StableDiffusionXLPipeline.from_pretrained(done.weights)
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = pipe(
        prompts, num_inference_steps=6, guidance_scale=1.0, generator=noise, output_type="pt"
    ).images
    error = (ours / 2 + 0.5 - theirs).square().mean()
    assert -10 * error.log10() > 45  # dB


# --- the settings travel ---


@pytest.mark.parametrize("kind", ["safetensors", "kohya"])
def test_the_settings_are_beside_the_weights_and_in_them(students, tmp_path, kind):
    done = write(students["sdxl"], tmp_path / "out", kind)
    assert Inference.load(tmp_path / "out" / "inference.json") == students["sdxl"][0]
    alone = done.weights.rename(tmp_path / "alone.safetensors")
    assert described(alone) == students["sdxl"][0]
    with safe_open(alone, "pt") as file:
        header = file.metadata()
    assert header["ss_network_dim"] == header["ss_network_alpha"] == str(RANK)
    assert header["ss_base_model_version"].startswith("sdxl_")
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert header["modelspec.usage_hint"] == "4 steps, guidance 1, eta 0"


def test_a_single_file_says_how_its_student_is_sampled_and_not_where_it_came_from(students, tmp_path):
    done = write(students["sd15"], tmp_path / "fox", "single-file")
    with safe_open(done.weights, "pt") as file:
        said = file.metadata()["tdd"]
    settings = Inference.load(tmp_path / "fox" / "inference.json")
    assert Inference.model_validate_json(said) == settings
    assert (settings.model, settings.config) == ("fox.safetensors", "config")


def test_the_card_says_how_the_student_is_used(students, tmp_path):
    write(students["sdxl"], tmp_path / "fox", "kohya", prompts=["a fox", "the sun"], scores="| fid |")
    text = (tmp_path / "fox" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["library_name"] == "diffusers"
    assert "base_model" not in about  # a folder here is nobody else's
    assert str(students["sdxl"][0].model) not in text
    assert "# fox" in body
    assert "14.6146, 4.1167, 1.6129, 0.6984, 0.0000" in body  # sigma / alpha at 999 751 499 251
    assert "![Samples](samples.png)" in body
    assert "| fid |" in body
    assert (tmp_path / "fox" / "samples.png").stat().st_size > 1000


def test_a_hub_models_card_names_it(students, tiny_folders, tmp_path):
    inference, weights = students["sd15"]
    student = open_student(inference, weights)
    inference = inference.model_copy(update={"model": "runwayml/stable-diffusion-v1-5"})
    write_student(student, inference, tmp_path / "out", kind="safetensors")
    header = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert (header["base_model"], header["base_model_relation"]) == (inference.model, "adapter")
    assert header["license"] == "creativeml-openrail-m"


# --- nothing half-written ---


def test_a_file_that_lost_something_is_removed(students, tmp_path, monkeypatch):
    def lossy(family, path, dtype, metadata):
        formats.write_diffusers(family, path, dtype, metadata)
        state = load_file(path)
        state[sorted(state)[1]] *= 1.5
        save_file(state, path)

    broken(monkeypatch, "safetensors", lossy)
    with pytest.raises(TddError, match=r"modules (\d+)/(\d+), max \|delta\|") as caught:
        write(students["sdxl"], tmp_path / "out", "safetensors")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(students, tmp_path):
    inference, weights = students["sdxl"]
    state = load_file(weights)
    state[sorted(state)[0]][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(TddError, match="does not compute"):
        write((inference, tmp_path / "nan.safetensors"), tmp_path / "out", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]


@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_full_disk_leaves_nothing(students, tmp_path, kind):
    student = open_student(*students["sdxl"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # writing more fails, as on a full disk
    try:
        with pytest.raises(TddError, match="cannot be written") as caught:
            write_student(student, students["sdxl"][0], tmp_path / "out", kind=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_disk_leaves_nothing(students, tmp_path, monkeypatch):
    student = open_student(*students["sdxl"])

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(TddError, match="Read-only file system"):
            write_student(student, students["sdxl"][0], tmp_path / "out", kind="merged")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_when_an_export_fails(students, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()

    def failing(family, path, dtype, metadata):
        path.write_text("half")
        raise TddError("no")

    broken(monkeypatch, "kohya", failing)
    with pytest.raises(TddError):
        write(students["sdxl"], tmp_path / "out", "kohya")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_in_memory_is_not_changed_by_reading_it_back(students, tmp_path):
    inference, weights = students["sd15"]
    student = open_student(inference, weights)
    before = folded_state(student.net)
    write_student(student, inference, tmp_path / "out", kind="kohya")
    after = folded_state(student.net)  # by now the one that was read back
    assert all(torch.equal(before[key], after[key]) for key in before)
