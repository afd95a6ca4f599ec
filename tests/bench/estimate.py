"""What --dry-run foresees of a run's memory, against what the run then takes.

python tests/bench/estimate.py plan|plan-of-tensors|run|warm KEY=VALUE ...    # one figure, bytes
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from accelerate.state import AcceleratorState

from tdd_cli.recipe import Recipe, load_recipe
from tdd_cli.training.assemble import assemble
from tdd_cli.training.log import peak_memory
from tdd_cli.training.plan import make_plan

STEPS = 2  # the second has the optimizer's state
FULL_STUDENT = "student={kind: full}"
CASES: dict[str, list[str]] = {
    "as it is (bf16)": ["train.precision=bf16"],
    "batch 8": ["train.precision=bf16", "train.global_batch=8", "train.device_batch=8"],
    "batch 64": ["train.precision=bf16", "train.global_batch=64", "train.device_batch=64"],
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
    """The table, a line at a time; every figure from a process of its own."""
    yield "| emoji-4to8 | foreseen, MiB | run, MiB | ratio | without the program: foreseen | run | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for name, changes in CASES.items():
        foreseen, taken, tensors, grown = (
            in_a_process(what, changes) for what in ("plan", "run", "plan-of-tensors", "warm")
        )
        sizes = [
            f"{a / 2**20:.0f} | {b / 2**20:.0f} | {a / b:.2f}"
            for a, b in ((foreseen, taken), (tensors, grown))
        ]
        yield f"| {name} | {' | '.join(sizes)} |"


def in_a_process(what: str, changes: Sequence[str]) -> int:
    """One figure, bytes, from a process that does nothing else."""
    command = [sys.executable, __file__, what, *changes]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def planned(changes: Sequence[str]) -> int:
    """What --dry-run says."""
    with tempfile.TemporaryDirectory() as folder:
        return make_plan(_recipe(changes), Path(folder)).memory.total


def planned_tensors(changes: Sequence[str]) -> int:
    """What --dry-run says but for the program."""
    with tempfile.TemporaryDirectory() as folder:
        memory = make_plan(_recipe(changes), Path(folder)).memory
        return memory.total - memory.program


def taken(changes: Sequence[str]) -> int:
    """What `peak_memory_mb` of a run's log is."""
    _train(changes)
    return peak_memory()


def grown(changes: Sequence[str]) -> int:
    """The growth of the peak over a run that follows a small one, which has loaded the program."""
    _train([*changes, "train.global_batch=1", "train.device_batch=1"])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free here must not be there for the run to take unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before = _status("VmHWM")
    _train(changes)
    return _status("VmHWM") - before


FIGURES: dict[str, Callable[[Sequence[str]], int]] = {
    "plan": planned,
    "plan-of-tensors": planned_tensors,
    "run": taken,
    "warm": grown,
}


def _train(changes: Sequence[str]) -> None:
    AcceleratorState._reset_state(True)
    for _ in assemble(_recipe(changes)).steps(start=0, steps=STEPS):
        pass


def _recipe(changes: Sequence[str]) -> Recipe:
    return load_recipe("emoji-4to8", [*changes, "preview.prompts=[]"])


def _status(name: str) -> int:
    """A line of the kernel's account of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    print(FIGURES[sys.argv[1]](sys.argv[2:]))
