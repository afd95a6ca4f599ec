"""recipes/accelerate: accelerate reads each file, and what it then tells processes is what a run can take."""

import os
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from processes import PROMPTS, distil, finished, needs_fork, start
from tdd_cli.errors import UsageError
from tdd_cli.processes import check_met
from tdd_cli.shipped import recipe_folder
from tdd_cli.training.sharding import check_launcher, policy, settle
from tdd_cli.training.zero import zero_settings

FILES = sorted((recipe_folder() / "accelerate").glob("*.yaml"))


def told(file, *options):
    """What `accelerate launch` puts into the environment of each process."""
    words = ["--config_file", str(file), "--main_process_ip", "127.0.0.1", *options, "-m", "tdd_cli"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = (
            ""  # set by the launcher once it finds the package
        )
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_the_file_and_a_run_can_take_it(file, monkeypatch):
    read = load_config_from_file(str(file))
    assert read.mixed_precision == "no"  # the recipe's business
    assert read.num_processes % read.num_machines == 0
    assert ("many" in file.stem) == (read.num_machines > 1)
    environment = told(file)
    check_launcher(environment)
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == file.stem.startswith("fsdp2")
    monkeypatch.setattr("tdd_cli.training.zero.require", lambda *args, **kwargs: None)
    asked = zero_settings(environment)
    assert (asked is not None) == file.stem.startswith("deepspeed")
    if asked:
        assert asked["stage"] == 2
    if file.stem.startswith("fsdp2"):
        for name, value in environment.items():
            if name.startswith("FSDP_"):
                monkeypatch.setenv(name, value)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2
        assert not plugin.activation_checkpointing
        assert not plugin.cpu_ram_efficient_loading


def test_there_is_one_for_each_case():
    many = {f"{kind}{size}" for kind in ("ddp", "deepspeed", "fsdp2") for size in ("", "-many")}
    assert {file.stem for file in FILES} == {"cpu", *many}


@pytest.mark.parametrize("name", ["MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_a_run_does_not_know_is_refused(name):
    with pytest.raises(UsageError, match="tdd does not train under"):
        check_launcher({f"ACCELERATE_USE_{name}": "true"})
    check_launcher({f"ACCELERATE_USE_{name}": "false"})


@needs_fork
@pytest.mark.parametrize("file", ["cpu", "fsdp2"])
def test_a_run_under_the_file(tiny_folders, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox\nthe sun\n")
    changes = (
        *PROMPTS,
        "train.steps=1",
        "train.warmup=0",
        "train.global_batch=2",
        "preview.prompts=[]",
        "student.merge=false",
    )
    environment = told(recipe_folder() / "accelerate" / f"{file}.yaml")
    told_only = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    run = partial(distil, tiny_folders["sdxl"], tmp_path / "run", *changes)
    assert finished(start(run, **{**told_only, "ACCELERATE_USE_CPU": "true"})) == [0, 0]
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plugin": {"fsdp_version": 1}}, "needs FSDP2"),
        ({"plugin": {"activation_checkpointing": True}}, "fsdp_activation_checkpointing"),
        ({"merge": True}, "student.merge"),
        ({"optimizer": "prodigy"}, "train.optimizer prodigy"),
    ],
)
def test_what_cannot_be_right_under_fsdp_is_refused_before_a_model_is_loaded(changes, words):
    changes = {"plugin": {}, "merge": False, "optimizer": "adamw", **changes}
    plugin = FullyShardedDataParallelPlugin(**{"fsdp_version": 2, **changes.pop("plugin")})
    state = SimpleNamespace(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    with pytest.raises(UsageError, match=words):
        settle(SimpleNamespace(state=state, mixed_precision="no"), **changes)


def test_a_process_that_does_not_find_the_others_says_so():
    with pytest.raises(UsageError, match="one of 2 processes"):
        check_met(1, {"WORLD_SIZE": "2"})
    check_met(2, {"WORLD_SIZE": "2"})
    check_met(1, {})


def test_inputs_are_not_rounded_under_fsdp():
    assert policy("bf16").param_dtype == torch.bfloat16
    assert policy("bf16").reduce_dtype == torch.float32
    assert not policy("bf16").cast_forward_inputs


def test_the_manifest_of_the_docs_launches_a_shipped_file():
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text("utf-8")
    service, job = yaml.safe_load_all(page.split("```yaml\n")[1].split("```")[0])
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"][-1]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--num_machines {job['spec']['completions']} " in command
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}" in command
    named = {Path(word).stem for word in re.findall(r"accelerate/([\w-]+\.yaml)", page)}
    assert named <= {file.stem for file in FILES}
