"""Carries out the study, or what is missing of it, and writes docs/study.md with its pictures.

python -m tdd_cli.bundled.emoji.study --dry-run       # the commands, and which are done
python -m tdd_cli.bundled.emoji.study                 # about three hours on two cores; may be stopped at will
python -m tdd_cli.bundled.emoji.study --part 1 --seeds 0
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from tdd_cli.bundled.emoji.study.carry import Execute, carry_out, done, in_process_of_its_own
from tdd_cli.bundled.emoji.study.plan import PARTS, Size, tasks
from tdd_cli.errors import TddError


def main(arguments: list[str] | None = None, execute: Execute = in_process_of_its_own) -> int:
    """Parse, carry out, write the page; returns the exit code."""
    args = parser().parse_args(arguments)
    size = Size(args.steps, args.n, tuple(args.seeds), args.teacher_steps, tuple(args.set))
    plan = tasks(args.out, size, args.part)
    try:
        if args.dry_run:
            for task in plan:
                print(f"{'done' if done(args.out, task) else '    '}  tdd {shlex.join(task.command)}")
            return 0
        for number, (task, before) in enumerate(carry_out(args.out, plan, execute, jobs=args.jobs), 1):
            state = "had been done" if before else "done"
            print(f"{number}/{len(plan)} {task.name}: {state}", file=sys.stderr, flush=True)
        print(_write(args.out, size, args.docs, samples=1 in args.part))
    except TddError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    normal = Size()
    found.add_argument("--out", type=Path, default=Path("study"), help="runs, measurements and notes")
    found.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    found.add_argument("--part", type=int, nargs="+", choices=PARTS, default=list(PARTS))
    found.add_argument("--seeds", type=int, nargs="+", default=list(normal.seeds))
    found.add_argument("--steps", type=int, default=normal.steps, help="optimizer steps of every run")
    found.add_argument("--n", type=int, default=normal.n, help="pictures of every measurement")
    found.add_argument("--teacher-steps", type=int, default=normal.teacher_steps)
    found.add_argument("--set", action="append", default=[], help="change a key of every recipe")
    found.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands at a time, 1 thread each")
    found.add_argument("--dry-run", action="store_true", help="only list the commands")
    return found


def _write(folder: Path, size: Size, docs: Path, *, samples: bool) -> Path:
    """The page, from all that was measured."""
    from tdd_cli.bundled.emoji.study.page import sheet, write_page
    from tdd_cli.evaluation.results import FILE, Result

    if samples:
        sheet(folder, docs)
    return write_page(Result.load(folder / "evals" / FILE), size, docs, samples=samples)


if __name__ == "__main__":
    sys.exit(main())
