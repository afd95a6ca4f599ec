"""Two processes on one machine: the same losses as one, the same log, one result."""

import json
import os
import socket

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tdd_cli.cli import app

SMALL = (
    "train.steps=12", "train.warmup=1", "train.global_batch=4", "train.device_batch=1", "data.resolution=32",
    "student.rank=1", "checkpoint.every=6", "preview.every=6", "preview.prompts=[a fox]",
    "train.precision=fp32",
    "data.source=null", "data.prompts=prompts.txt", "data.flip=false", "data.teacher_steps=2",
    "data.cache=latents",
)  # fmt: skip


def distil(model, out, *changes):
    AcceleratorState._reset_state(True)
    words = ["distill", "--out", str(out)]
    for change in (f"model.path={model}", *SMALL, *changes):
        words += ["--set", change]
    app(words, standalone_mode=False)


def on_two_processes(*arguments):
    """The same command in two processes that know of each other, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            }  # fmt: skip
            code = 1
            try:
                distil(*arguments)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_train_as_one_does(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"a fox {i}\n" for i in range(7)))
    on_two_processes(tiny_folders["sdxl"], tmp_path / "two")
    distil(tiny_folders["sdxl"], tmp_path / "one")
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [record["step"] for record in logs[1]] == list(range(1, 13))
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert len(list((tmp_path / "two" / "samples").iterdir())) == 2
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-2, atol=1e-3)
