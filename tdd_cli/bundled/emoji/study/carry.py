"""Carries out tasks, each once: what is done is noted, what was interrupted goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tdd_cli.bundled.emoji.study.plan import Task
from tdd_cli.errors import TddError, UsageError
from tdd_cli.files import write_atomic

Execute = Callable[[Sequence[str]], int]
"""What stands after `tdd` -> exit code."""


def carry_out(folder: Path, tasks: Sequence[Task], execute: Execute) -> Iterator[tuple[Task, bool]]:
    """Yields (task, whether it had been done before) after each; TddError where a command fails."""
    for task in tasks:
        if done(folder, task):
            yield task, True
            continue
        code = execute(command(task))
        if code:
            raise TddError(
                f"{task.name} failed with exit code {code}: tdd {' '.join(command(task))}",
                hint="Mend what it says above; the same command goes on from here.",
            )
        write_atomic(_note(folder, task), json.dumps({"command": task.command}) + "\n")
        yield task, False


def done(folder: Path, task: Task) -> bool:
    """Whether a task was carried out; UsageError where that was with another command."""
    note = _note(folder, task)
    if not note.is_file():
        return False
    before = json.loads(note.read_text(encoding="utf-8"))["command"]
    if before != list(task.command):
        raise UsageError(
            f"{folder} has {task.name} made by another command: tdd {' '.join(before)}",
            hint="Choose another --out, or remove the note and what it made.",
        )
    return True


def command(task: Task) -> tuple[str, ...]:
    """The task's command, or the one that goes on with its run."""
    if task.run is not None and (task.run / "manifest.json").is_file():
        return ("distill", "--resume", str(task.run))
    return task.command


def in_process_of_its_own(arguments: Sequence[str]) -> int:
    """Run `tdd` as one types it."""
    return subprocess.run([sys.executable, "-m", "tdd_cli", *arguments], check=False).returncode


def _note(folder: Path, task: Task) -> Path:
    return folder / "done" / f"{task.name}.json"
