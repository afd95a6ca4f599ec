"""tdd export, as typed."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tdd_cli import run as run_module
from tdd_cli.cli import app
from tdd_cli.errors import MissingComponent, TddError, UsageError
from tdd_cli.exporting import hub
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.inference import Inference
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def run(tiny_folders, tmp_path):
    """A finished run under runs/."""
    recipe = load_recipe("emoji-4to8", [f"model.path={tiny_folders['sdxl']}", "data.resolution=32"])
    run = Run.create(None, recipe, name="mine", command=["tdd"])
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, family.lora_targets, rank=2)
    with torch.no_grad():
        for name, parameter in family.net.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_lora(family.net, run.adapter, {})
    Inference.of(recipe).save(run.inference)
    return run


def refused(done, error, message):
    assert isinstance(done.exception, error), done.output
    assert message in done.exception.message
    return done.exception


def test_the_latest_run_is_exported_with_its_settings_and_pictures(run, tmp_path):
    done = call("--format", "safetensors")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "exports" / run.folder.name
    assert done.stdout.splitlines() == [f"exports/{folder.name}/{folder.name}.safetensors"]
    assert f"the latest run, {run.folder}" in done.stderr
    assert "reload check: modules 119/119, max |delta| " in done.stderr
    assert Inference.load(folder / "inference.json") == Inference.load(run.inference)
    assert (folder / "samples.png").is_file()
    again = call("--format", "safetensors", "--no-pictures")
    assert again.stdout.splitlines() == [f"exports/{folder.name}-2/{folder.name}-2.safetensors"]


def test_without_a_run_it_is_the_bundled_student():
    done = call("--format", "kohya", "--no-pictures", "--rank", 2, "--dtype", "fp16", "--out", "fox")
    assert done.exit_code == 0, done.output
    assert "the bundled student" in done.stderr
    assert "rank 2: relative error of the update" in done.stderr
    assert "fox.safetensors" in done.stderr
    assert any(".alpha" in key for key in load_file("fox/fox.safetensors"))


def test_an_exported_file_alone_is_sampled_as_it_says(run, tmp_path):
    done = call(run.folder, "--no-pictures", "--steps", 5, "--out", "fox")
    (tmp_path / "fox" / "fox.safetensors").rename(tmp_path / "alone.safetensors")
    drawn = CliRunner().invoke(app, ["sample", "a fox", "--lora", "alone.safetensors", "--out", "drawn"])
    assert drawn.exit_code == 0, (done.output, drawn.output)
    assert "5 steps" in drawn.stderr


def test_a_merged_folder_is_sampled_as_it_says(run):
    assert call(run.folder, "-f", "merged", "--no-pictures", "--steps", 6, "--out", "fox").exit_code == 0
    drawn = CliRunner().invoke(app, ["sample", "a fox", "--model", "fox", "--out", "drawn"])
    assert drawn.exit_code == 0, drawn.output
    assert "6 steps" in drawn.stderr


def test_a_single_file_is_sampled_as_it_says(run):
    assert call(run.folder, "-f", "single-file", "--no-pictures", "--steps", 6, "--out", "fox").exit_code == 0
    drawn = CliRunner().invoke(app, ["sample", "a fox", "--model", "fox/fox.safetensors", "--out", "drawn"])
    assert drawn.exit_code == 0, drawn.output
    assert "6 steps" in drawn.stderr


def test_it_converts_adapters_made_elsewhere(run, tiny_folders):
    """The published TDD files: no alpha, no settings."""
    state = {key.replace("unet.", "unet.base_model.model."): v for key, v in load_file(run.adapter).items()}
    save_file(state, "tdd.safetensors")
    done = call(
        "--lora", "tdd.safetensors", "--model", tiny_folders["sdxl"], "--alpha", 8, "--steps", 5,
        "--guidance", 1.7, "--eta", 0.2, "--no-pictures", "--out", "fox",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "tdd.safetensors does not say how it is sampled" in done.stderr
    after = load_file("fox/fox.safetensors")
    key = next(key for key in after if "lora_B" in key)
    torch.testing.assert_close(after[key], load_file(run.adapter)[key] * 8 / 2)
    settings = json.loads(Path("fox/inference.json").read_text())
    assert (settings["steps"], settings["guidance"], settings["eta"]) == (5, 1.7, 0.2)


def test_an_adapter_is_merged_into_another_model(run, tmp_path, tiny_folders):
    other = load_family("sdxl", str(tiny_folders["sdxl"]))
    with torch.no_grad():
        other.net.conv_in.weight.mul_(2)
    other.pipeline().save_pretrained(tmp_path / "other")
    done = call(
        run.folder, "-f", "merged", "--merge-into", tmp_path / "other", "--no-pictures", "--out", "fox"
    )
    assert done.exit_code == 0, done.output
    found = load_family("sdxl", "fox").net
    assert torch.equal(found.conv_in.weight, other.net.conv_in.weight)
    assert not torch.equal(
        found.mid_block.attentions[0].proj_in.weight, other.net.mid_block.attentions[0].proj_in.weight
    )


# --- the hub ---


class Api:
    """A stand-in for huggingface_hub.HfApi: notes what is asked of it, or fails."""

    asked: list = []
    error: Exception | None = None

    def create_repo(self, repo, **options):
        self.asked.append(("create", repo, options))
        if self.error:
            raise self.error
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id, folder_path, **options):
        self.asked.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "asked", [])
    return Api


def test_push_uploads_the_folder(run, api):
    done = call(run.folder, "--no-pictures", "--out", "fox", "--push", "me/fox")
    assert done.exit_code == 0, done.output
    assert "uploaded to https://hub/me/fox" in done.stderr
    assert "which is on this machine" in done.stderr  # what is published names a folder of ours
    assert api.asked[0] == ("create", "me/fox", {"exist_ok": True})
    assert api.asked[1] == ("upload", "me/fox", ["README.md", "fox.safetensors", "inference.json"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("hf_secret"), "no login to the hub"),
        (ConnectionError("gone"), "is not uploaded: gone"),
        (HfHubHTTPError("403 Forbidden", response=type("R", (), {"headers": {}, "request": None})()), "403"),
    ],
)
def test_a_failed_upload_keeps_the_files_and_no_secret(run, api, monkeypatch, tmp_path, error, message):
    monkeypatch.setattr(api, "error", error)
    done = call(run.folder, "--no-pictures", "--out", "fox", "--push", "me/fox")
    caught = refused(done, MissingComponent, message)
    assert caught.exit_code == 5
    assert "hf upload me/fox fox" in caught.hint
    assert (tmp_path / "fox" / "fox.safetensors").is_file()
    assert "hf_secret" not in done.output + caught.message + caught.hint


def test_push_without_a_network_is_exit_code_5_with_the_files_kept(run, tmp_path):
    done = call(run.folder, "--no-pictures", "--out", "fox", "--push", "me/fox")
    assert refused(done, MissingComponent, "the hub does not answer").exit_code == 5
    assert (tmp_path / "fox" / "fox.safetensors").is_file()


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--format", "koyha"], UsageError, "did you mean kohya?"),
        (["--dtype", "fp8"], UsageError, "--dtype fp8 is unknown"),
        (["--push", "nothing"], UsageError, "nothing is not the name of a hub repository"),
        (["absent"], UsageError, "absent does not exist"),
        (["--model", "x"], UsageError, "--model is the base model of --lora"),
        (["x", "--lora", "y.safetensors"], UsageError, "a run has its own adapter"),
        (["--lora", "absent.safetensors"], UsageError, "absent.safetensors has no inference.json"),
        (["--lora", "absent.safetensors", "--model", "bundled:emoji"], UsageError, "no LoRA file at absent"),
        (["--lora", "lora.ckpt", "--model", "bundled:emoji"], UsageError, "is a pickle"),
        (["--merge-into", "x"], UsageError, "is an adapter: it has no base model to merge into"),
        (["--out", "fox.safetensors"], UsageError, "a folder is written"),
        (["--steps", 300], UsageError, "no equal schedule of 300 steps"),
        (["--eval", "absent.json"], UsageError, "there is no file absent.json"),
        (["-f", "merged", "--merge-into", "nobody/nothing"], MissingComponent, "nobody/nothing"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(tmp_path, arguments, error, message):
    refused(call(*arguments), error, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--rank", "0"], ["--eta", "2"], ["--guidance", "-1"], ["--steps", "0"]]
)
def test_values_out_of_range_are_usage_errors(arguments):
    assert call(*arguments).exit_code == 2


def test_a_folder_that_holds_something_is_not_written_to(run, tmp_path):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "README.md").write_text("precious")
    refused(call("--out", "keep"), UsageError, "keep exists and is not an empty folder")
    refused(call("--out", "keep/README.md"), UsageError, "exists and is not an empty folder")
    assert (tmp_path / "keep" / "README.md").read_text() == "precious"


def test_a_place_that_cannot_be_written_to_is_said(run, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(call(run.folder, "--no-pictures", "--out", "file/fox"), TddError, "cannot be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]


def test_a_run_without_a_result_is_refused(run):
    run.inference.unlink()
    assert run_module.latest_run(finished=True) is None
    assert "no result yet" in refused(call(run.folder), UsageError, "inference.json does not exist").hint


def test_a_whole_network_has_no_adapter_to_export(run):
    settings = Inference.load(run.inference).model_copy(update={"student": "full"})
    settings.save(run.inference)
    refused(call(run.folder), UsageError, "a whole network, not an adapter")
    refused(call(run.folder, "-f", "merged", "--rank", 2), UsageError, "are for adapters")
