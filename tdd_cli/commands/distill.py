"""tdd distill: train a few-step student from a recipe, or go on with an interrupted run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tdd_cli.commands.recipes import complete_recipe
from tdd_cli.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from tdd_cli.recipe import Recipe
    from tdd_cli.run import Run
    from tdd_cli.training.assemble import Assembled


def distill(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", metavar="NAME|FILE", help="Shipped recipe or YAML file. [default: emoji-4to8]",
            autocompletion=complete_recipe, show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder. [default: runs/RECIPE-DATE-TIME]")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this run folder.")] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after N steps; the run can be resumed.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Short for --set train.seed=N.")] = None,
) -> None:  # fmt: skip
    """Train a student that draws in a few steps.

    Examples:
      tdd distill --recipe emoji-4to8

      tdd distill -r emoji-4to8 --set train.lr=1e-4 --set target.rule=pcm --out runs/pcm

      tdd distill --resume runs/pcm
    """
    from tdd_cli.recipe import DEFAULT_RECIPE, load_recipe, recipe_name
    from tdd_cli.run import Run

    changes = [*(overrides or []), *([f"train.seed={seed}"] if seed is not None else [])]
    if resume is not None:
        if recipe or changes or out:
            raise UsageError(
                "--resume takes everything from the run folder",
                hint="Leave out --recipe, --set, --seed and --out, or start a new run.",
            )
        run = Run.open(resume)
        _go(run.load_recipe(), run, name="", out=None, max_steps=max_steps)
        return
    name = recipe or DEFAULT_RECIPE
    chosen = load_recipe(name, changes)
    typer.echo(f"recipe {name}{'' if recipe else ' (the default)'}: {chosen.description}", err=True)
    _go(chosen, None, name=recipe_name(name), out=out, max_steps=max_steps)


def _go(recipe: Recipe, run: Run | None, *, name: str, out: Path | None, max_steps: int | None) -> None:
    """Assemble, train, finish. The run folder is made only when everything it needs is there."""
    from tdd_cli.run import Run
    from tdd_cli.training.assemble import assemble
    from tdd_cli.training.conduct import finish, restore

    parts = assemble(recipe)
    resumed = run is not None
    if run is None:
        run = Run.create(out, recipe, name=name)
    start = restore(run, parts) if resumed else 0
    stop = min(recipe.train.steps, max_steps or recipe.train.steps)
    trainable = sum(parameter.numel() for parameter in parts.pair.parameters)
    typer.echo(f"run {run.folder}: steps {start}..{stop}, {trainable:,} trainable parameters", err=True)
    _train(recipe, run, parts, start=start, stop=stop)
    reload = finish(recipe, run, parts)
    if reload is not None:
        typer.echo(
            f"reload check: modules {reload.matched}/{reload.total}, max |delta| {reload.delta:.1e}", err=True
        )
    if stop < recipe.train.steps:
        typer.echo(
            f"stopped at step {stop} of {recipe.train.steps}; tdd distill --resume {run.folder}", err=True
        )
    typer.echo(str(run.folder))
    typer.echo(f'try it: tdd sample "a fox" --run {run.folder}', err=True)


def _train(recipe: Recipe, run: Run, parts: Assembled, *, start: int, stop: int) -> None:
    """Take the steps, show how it goes; on Ctrl-C or SIGTERM save first and say how to resume."""
    from tdd_cli.progress import Meter
    from tdd_cli.training.conduct import conduct

    step = start
    with Meter("step", stop, done=start) as meter, _signals() as caught:
        for report in conduct(recipe, run, parts, start=start, stop=stop, halt=lambda: bool(caught)):
            step = report.step
            if report.note:
                meter.show(step, report.note)
            if report.saved:
                meter.say(f"saved {report.saved}")
    if step < stop:
        raise Interrupted(
            f"stopped at step {step} of {stop}; the state is saved",
            hint=f"Go on with: tdd distill --resume {run.folder}",
        )


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
