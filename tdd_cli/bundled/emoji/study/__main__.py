"""Carries out the study, or what is missing of it, and writes docs/study.md with its pictures.

python -m tdd_cli.bundled.emoji.study --dry-run       # the commands, and which are done
python -m tdd_cli.bundled.emoji.study                 # six to eight hours on 2 cores; may be stopped at will
python -m tdd_cli.bundled.emoji.study --part 1 --seeds 0
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tdd_cli.bundled.emoji.study.carry import Execute, carry_out, done, in_process_of_its_own, missing
from tdd_cli.bundled.emoji.study.page import sheet, write_page
from tdd_cli.bundled.emoji.study.plan import PARTS, Size, tasks
from tdd_cli.bundled.emoji.study.rows import (
    FILE,
    Row,
    Terms,
    as_csv,
    joined,
    load,
    measured,
    terms,
)
from tdd_cli.errors import TddError
from tdd_cli.evaluation.results import FILE as RESULT
from tdd_cli.evaluation.results import Result
from tdd_cli.files import write_atomic


def main(arguments: list[str] | None = None, execute: Execute = in_process_of_its_own) -> int:
    """Parse, carry out, write the page; returns the exit code."""
    args = parser().parse_args(arguments)
    size = Size(args.steps, args.n, tuple(args.seeds), args.teacher_steps, tuple(args.set))
    try:
        under = terms(size)
        rows = load(args.docs / FILE, under)
        plan = missing(tasks(args.out, size, args.part), {row.point for row in rows})
        if args.dry_run:
            for task in plan:
                print(f"{'done' if done(args.out, task) else '    '}  tdd {shlex.join(task.command)}")
            return 0
        for number, (task, before) in enumerate(carry_out(args.out, plan, execute, jobs=args.jobs), 1):
            state = "had been done" if before else "done"
            print(f"{number}/{len(plan)} {task.name}: {state}", file=sys.stderr, flush=True)
            if task.run is None:
                rows = _keep(rows, args.out, args.docs, size, under)
        sheet(args.out, args.docs)
        print(write_page(rows, size, under.protocol, args.docs))
    except TddError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def _keep(rows: Sequence[Row], folder: Path, docs: Path, size: Size, under: Terms) -> list[Row]:
    """The rows with what was measured since, which are written down."""
    found = measured(Result.load(folder / "evals" / RESULT), size)
    together = joined(rows, found)
    write_atomic(docs / FILE, as_csv(together, under))
    return together


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    normal = Size()
    found.add_argument("--out", type=Path, default=Path("study"), help="runs, measurements and notes")
    found.add_argument("--docs", type=Path, default=Path("docs"), help="where page and measurements are")
    found.add_argument("--part", type=int, nargs="+", choices=PARTS, default=list(PARTS))
    found.add_argument("--seeds", type=int, nargs="+", default=list(normal.seeds))
    found.add_argument("--steps", type=int, default=normal.steps, help="optimizer steps of every run")
    found.add_argument("--n", type=int, default=normal.n, help="pictures of every measurement")
    found.add_argument("--teacher-steps", type=int, default=normal.teacher_steps)
    found.add_argument("--set", action="append", default=[], help="change a key of every recipe")
    found.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands at a time, 1 thread each")
    found.add_argument("--dry-run", action="store_true", help="only list the commands")
    return found


if __name__ == "__main__":
    sys.exit(main())
