"""What --dry-run foresees of a run's memory, against what the run then takes."""

from __future__ import annotations

import ctypes
import os
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from accelerate.state import AcceleratorState

from tdd_cli.recipe import load_recipe
from tdd_cli.training.assemble import assemble
from tdd_cli.training.log import peak_memory
from tdd_cli.training.plan import make_plan

STEPS = 2  # the second has the optimizer's state
FULL_STUDENT = "student={kind: full}"
CASES: dict[str, list[str]] = {
    "as it is (bf16)": ["train.precision=bf16"],
    "batch 8": ["train.precision=bf16", "train.global_batch=8", "train.device_batch=8"],
    "adapter not merged": ["train.precision=bf16", "student.merge=false"],
    "fp32": ["train.precision=fp32"],
    "fp32, adapter not merged": ["train.precision=fp32", "student.merge=false"],
    "fp32, not merged, checkpointing": [
        *("train.precision=fp32", "student.merge=false", "train.gradient_checkpointing=true")
    ],
    "fp32, full student": ["train.precision=fp32", FULL_STUDENT],
    "fp32, full student, batch 8": [
        *("train.precision=fp32", FULL_STUDENT, "train.global_batch=8", "train.device_batch=8")
    ],
}


def estimates() -> Iterator[str]:
    """The table, a line at a time; every run in a process of its own, libraries loaded before."""
    yield "| emoji-4to8 | estimate, MiB | run, MiB | estimate / run |"
    yield "|---|---|---|---|"
    for name, changes in CASES.items():
        foreseen, taken = compare(changes)
        yield f"| {name} | {foreseen / 2**20:.0f} | {taken / 2**20:.0f} | {foreseen / taken:.2f} |"


def compare(changes: list[str]) -> tuple[int, int]:
    """(estimate, what a run of a few steps takes beyond the program itself), bytes."""
    recipe = load_recipe("emoji-4to8", [*changes, "preview.prompts=[]"])
    with tempfile.TemporaryDirectory() as folder:
        return make_plan(recipe, Path(folder)).memory.total, in_a_child(changes)


def in_a_child(changes: list[str]) -> int:
    """The growth of a forked process's peak memory over a run of a few steps, bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free here must not be there for the child to take unseen
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            os.write(writing, str(_grown(changes)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"the run of {changes} failed")
    return int(told)


def _grown(changes: list[str]) -> int:
    AcceleratorState._reset_state(True)
    recipe = load_recipe("emoji-4to8", [*changes, "preview.prompts=[]"])
    before = peak_memory()
    steps = assemble(recipe).steps(start=0, steps=STEPS)
    for _ in steps:
        pass
    return peak_memory() - before
