"""tdd distill: train a few-step student from a recipe, or go on with an interrupted run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tdd_cli.commands.recipes import complete_recipe
from tdd_cli.data.rejects import worded
from tdd_cli.errors import Interrupted, OutOfMemory, UsageError

if TYPE_CHECKING:
    from tdd_cli.recipe import Recipe
    from tdd_cli.run import Run
    from tdd_cli.training.assemble import Assembled


def distill(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", metavar="NAME|FILE", help="Shipped recipe or YAML file.",
            show_default="emoji-4to8", autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder.", show_default="runs/RECIPE-DATE-TIME")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="DIR|auto",
            help="Go on with this run folder; auto: with the one at --out, or the newest unfinished one, and "
            "start anew where there is none.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although the recipe or the data have changed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and what the run needs, and stop.")
    ] = False,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after N steps; the run can be resumed.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Short for --set train.seed=N.")] = None,
) -> None:  # fmt: skip
    """Train a student that draws in a few steps.

    Examples:
      tdd distill --recipe emoji-4to8

      tdd distill -r emoji-4to8 --set train.lr=1e-4 --set target.rule=pcm --out runs/pcm

      tdd distill -r sdxl-4to8 --set model.config=FOLDER --dry-run

      tdd distill --resume runs/pcm

      tdd distill -r sdxl-4to8 --out runs/mine --resume auto
    """
    from tdd_cli.recipe import DEFAULT_RECIPE, load_recipe, recipe_name
    from tdd_cli.run import Run
    from tdd_cli.training.resume import check_same, unfinished

    changes = [*(overrides or []), *([f"train.seed={seed}"] if seed is not None else [])]
    if resume not in (None, "auto"):
        if out:
            raise UsageError("--resume names the run folder", hint="Leave out --out, or start a new run.")
        run: Run | None = Run.open(str(resume))
    else:
        run = unfinished(out, recipe_name(recipe) if recipe else None) if resume == "auto" else None
    name = recipe or (run.recipe if run else DEFAULT_RECIPE)
    chosen = load_recipe(name, changes)
    if dry_run:
        _print_plan(chosen)
        return
    if run is not None and not force:
        check_same(run, chosen)
    if run is None:
        shown = f"recipe {name}{'' if recipe else ' (the default)'}: {chosen.description}"
        if not _place()[0]:
            typer.echo(shown, err=True)
    _go(chosen, run, name=recipe_name(name), out=out, max_steps=max_steps, force=force)


def _go(
    recipe: Recipe, run: Run | None, *, name: str, out: Path | None, max_steps: int | None, force: bool
) -> None:
    """Assemble, train, finish. The run folder is made only when everything it needs is there."""
    from tdd_cli.processes import together
    from tdd_cli.training.assemble import assemble
    from tdd_cli.training.conduct import finish, restore
    from tdd_cli.training.resume import changed_versions, settle_origins, take_recipe

    with together(), _memory(recipe):
        parts = assemble(recipe, show=_fill_cache)
        say = _say(parts)
        if parts.stock.left_out:
            say(f"left out: {worded(parts.stock.left_out)}")
        resumed = run is not None
        run = run or _create(recipe, parts, name=name, out=out)
        if parts.accelerator.is_main_process:
            settle_origins(run, parts.stock.made_of, force=force)
        start = restore(run, parts, say=say) if resumed else 0
        if parts.accelerator.is_main_process:
            take_recipe(run, recipe)
        if resumed and (changed := changed_versions(run)):
            say(f"not to the bit the same run any more: {', '.join(changed)}")
        stop = min(recipe.train.steps, max_steps or recipe.train.steps)
        trainable = sum(parameter.numel() for parameter in parts.pair.parameters)
        say(f"run {run.folder}: steps {start}..{stop}, {trainable:,} trainable parameters")
        _train(recipe, run, parts, start=start, stop=stop)
        reload = finish(recipe, run, parts)
    if not parts.accelerator.is_main_process:
        return
    if reload is not None:
        say(f"reload check: modules {reload.matched}/{reload.total}, max |delta| {reload.delta:.1e}")
    if stop < recipe.train.steps:
        say(f"stopped at step {stop} of {recipe.train.steps}; tdd distill --resume {run.folder}")
    typer.echo(str(run.folder))
    say(f'try it: tdd sample "a fox" --run {run.folder}')


def _print_plan(recipe: Recipe) -> None:
    """The resolved recipe and what the run will need, by the first process; no weights are loaded."""
    from tdd_cli.recipe import dump_recipe
    from tdd_cli.training.plan import lines, make_plan

    process, processes = _place()
    if process:
        return
    plan = make_plan(recipe, processes=processes)
    typer.echo(dump_recipe(recipe))
    for line in lines(plan, recipe):
        typer.echo(line)


def _place() -> tuple[int, int]:
    """(which of the processes this is, how many there are), as the launcher says."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("RANK", "0")) if processes > 1 else 0, processes


def _create(recipe: Recipe, parts: Assembled, *, name: str, out: Path | None) -> Run:
    """A new run folder, made by one process for all."""
    from accelerate.utils import broadcast_object_list

    from tdd_cli.run import Run

    made = [str(Run.create(out, recipe, name=name).folder) if parts.accelerator.is_main_process else ""]
    return Run.open(broadcast_object_list(made)[0])


def _say(parts: Assembled) -> Callable[[str], None]:
    """Lines on stderr, from one process."""
    return lambda text: typer.echo(text, err=True) if parts.accelerator.is_main_process else None


@contextmanager
def _memory(recipe: Recipe) -> Iterator[None]:
    """Out of memory, said with what this recipe could change, what costs least first."""
    from tdd_cli.training.remedies import is_out_of_memory, remedies

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["no more is free"])[0]
        hint = f"What costs least first:\n{remedies(recipe)}"
        raise OutOfMemory(f"the device is out of memory: {first}", hint=hint) from None


def _fill_cache(what: str, total: int, made: Iterator[int]) -> None:
    """Make what is missing of a cache, showing how it goes; what is interrupted goes on where it stopped."""
    from tdd_cli.progress import Meter

    done, (process, processes) = 0, _place()
    share = f", the share of process {process + 1} of {processes}" if processes > 1 else ""
    try:
        with Meter("samples", total) as meter:
            meter.say(f"{what}: {total:,} samples{share}")
            for count in made:
                done += count
                if not process:
                    meter.show(done, "")
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped {what}: the files of it that are whole are kept, the one being made is not",
            hint="The same command goes on from there.",
        ) from None


def _train(recipe: Recipe, run: Run, parts: Assembled, *, start: int, stop: int) -> None:
    """Take the steps, show how it goes; on Ctrl-C or SIGTERM save first and say how to resume."""
    from tdd_cli.progress import Meter
    from tdd_cli.training.conduct import conduct

    step = start
    shown = parts.accelerator.is_main_process
    if shown:
        _tidy(run, parts)
    with Meter("step", stop, done=start) as meter, _signals() as caught:
        for report in conduct(recipe, run, parts, start=start, stop=stop, halt=lambda: bool(caught)):
            step = report.step
            if not shown:
                continue
            if report.note:
                meter.show(step, report.note)
            if report.saved:
                meter.say(f"saved {report.saved}")
    if step < stop:
        raise Interrupted(
            f"stopped at step {step} of {stop}; the state is saved",
            hint=f"Go on with: tdd distill --resume {run.folder}",
        )


def _tidy(run: Run, parts: Assembled) -> None:
    """By the process that writes, before the first step: remove what a killed one left, note the machine."""
    from tdd_cli.training.checkpoint import sweep
    from tdd_cli.training.rates import device_name
    from tdd_cli.training.resume import amend

    for path in (*sweep(run.checkpoints), *sweep(run.folder)):
        typer.echo(f"removed {path}: a process was killed while writing it", err=True)
    machine = parts.accelerator
    amend(run, processes=machine.num_processes, device=device_name(machine.device.type))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that gets the number of the first SIGINT or SIGTERM; a second one takes its usual effect."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
