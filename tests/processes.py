"""Processes of one machine that know of each other, as `accelerate launch` starts them; here made by fork.

codes = finished(start(partial(distil, model, folder), processes=2))
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tdd_cli.cli import app

SMALL = (
    "train.steps=8", "train.warmup=1", "train.global_batch=4", "train.device_batch=1", "data.resolution=32",
    "checkpoint.every=4", "preview.every=4", "preview.prompts=[a fox]",
    "train.precision=fp32", "data.flip=false",
)  # fmt: skip
PROMPTS = (
    "data.source=null", "data.prompts=prompts.txt", "data.teacher_steps=2", "data.cache=latents",
)  # fmt: skip
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def start(work: Callable[[], object], *, processes: int = 2, **environment: str) -> list[int]:
    """Begin `work` in each process; their ids, by rank. An exception in it is exit code 1, or its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true",
                "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment,
            }  # fmt: skip
            os._exit(_code(work))
        children.append(child)
    return children


def finished(children: Sequence[int], *, seconds: float = 3600) -> list[int]:
    """Exit codes by rank, a signal's as a negative number; what still runs after `seconds` is killed."""
    deadline, codes = time.monotonic() + seconds, dict[int, int]()
    while len(codes) < len(children) and time.monotonic() < deadline:
        for child in children:
            if child not in codes and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.01)
    for child in children:
        if child not in codes:
            os.kill(child, signal.SIGKILL)
            codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [codes[child] for child in children]


def distil(model, out, *changes, options=()):
    """`tdd distill` of a tiny run, begun or gone on with, in this process."""
    AcceleratorState._reset_state(True)
    words = ["distill", "--resume", "auto", "--out", str(out), *options]
    student = () if "student.kind=full" in changes else ("student.rank=1",)
    for change in (f"model.path={model}", *SMALL, *student, *changes):
        words += ["--set", change]
    app(words, standalone_mode=False)


def outcome(folder):
    """(log without times, the student's tensors) of a run."""
    timing = ("images_per_s", "peak_memory_mb")
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in record.items() if key not in timing} for record in records]
    return log, load_file(weights_of(folder))


def check_same_training(two, one):
    """Logs and adapters as close as sums taken in another order are."""
    (log, weights), (expected_log, expected) = outcome(two), outcome(one)
    assert [record["step"] for record in log] == [record["step"] for record in expected_log]
    for ours, theirs in zip(log, expected_log, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours.get("left_out") == theirs.get("left_out")
    apart, size = (
        torch.cat([one.flatten() for one in each]).norm()
        for each in ([weights[key] - value for key, value in expected.items()], expected.values())
    )
    assert apart < 1e-3 * size


def weights_of(folder: Path) -> Path:
    """The file with a run's student."""
    adapter = folder / "adapter.safetensors"
    return adapter if adapter.is_file() else folder / "student" / "diffusion_pytorch_model.safetensors"


def _code(work: Callable[[], object]) -> int:
    AcceleratorState._reset_state(True)
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        return getattr(error, "exit_code", 1)
    return 0
