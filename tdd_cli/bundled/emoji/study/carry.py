"""Carries out tasks, each once: what is done is noted, what was interrupted goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tdd_cli.bundled.emoji.study.plan import Point, Task
from tdd_cli.errors import TddError, UsageError
from tdd_cli.files import write_atomic

Execute = Callable[[Sequence[str]], int]
"""What stands after `tdd` -> exit code."""


def missing(tasks: Sequence[Task], known: Collection[Point]) -> list[Task]:
    """What is left to do where some points are known: measurements of others, and the runs they need.

    A measurement whose points another one gives too is left to that one.
    """
    known = set(known)
    unknown = [task for task in tasks if task.run is None and not task.points <= known]
    left = [task for task in unknown if not any(task.points < other.points for other in unknown)]
    wanted = {name for task in left for name in (task.name, *task.needs)}
    return [task for task in tasks if task.name in wanted]


def carry_out(
    folder: Path, tasks: Sequence[Task], execute: Execute, *, jobs: int = 1
) -> Iterator[tuple[Task, bool]]:
    """Yields (task, whether it had been done before) after each; TddError where a command fails.

    Up to `jobs` tasks run at a time, each when what it needs is done; of the measurements, which share a
    folder, one. After a failure no task is started, and those under way are waited for.
    """
    open_tasks: list[Task] = []
    for task in tasks:
        if done(folder, task):
            yield task, True
        else:
            open_tasks.append(task)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[int], Task] = {}
        while open_tasks or running:
            while len(running) < jobs and (ready := _next(open_tasks, running.values())):
                open_tasks.remove(ready)
                running[pool.submit(execute, command(ready))] = ready
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                if future.result():
                    raise TddError(
                        f"{task.name} failed with exit code {future.result()}: tdd {' '.join(command(task))}",
                        hint="Mend what it says above; the same command goes on from here.",
                    )
                write_atomic(_note(folder, task), json.dumps({"command": task.command}) + "\n")
                yield task, False


def _next(waiting: Sequence[Task], running: Collection[Task]) -> Task | None:
    """The task to start now: a measurement that has all it needs, else a training, in the plan's order."""
    missing = {task.name for task in (*waiting, *running)}
    ready = [task for task in waiting if missing.isdisjoint(task.needs)]
    if any(task.run is None for task in running):
        ready = [task for task in ready if task.run is not None]
    return min(ready, key=lambda task: task.run is not None, default=None)


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
    """Run `tdd` as one types it, with one thread: two such trainings are faster than one with two."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "tdd_cli", *arguments], check=False, env=alone).returncode


def _note(folder: Path, task: Task) -> Path:
    return folder / "done" / f"{task.name}.json"
