"""`tdd recipes`: list, show, explain and copy the shipped recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdd_cli.shipped import recipe_names

if TYPE_CHECKING:
    from tdd_cli.recipe_keys import Key

recipes_app = typer.Typer(help="List, show, explain and copy the shipped recipes.")


def complete_recipe(incomplete: str) -> list[str]:
    """The shipped recipe names that start with `incomplete`, for shell completion."""
    return [name for name in recipe_names() if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="A recipe's name.", autocompletion=complete_recipe)]


@recipes_app.callback(invoke_without_command=True)
def listing(context: typer.Context) -> None:
    """List the shipped recipes; `show`, `keys` and `copy` say more."""
    if context.invoked_subcommand is None:
        from tdd_cli.recipe import load_recipe

        for name in recipe_names():
            typer.echo(f"{name:<14} {load_recipe(name).description}")


@recipes_app.command()
def show(name: Name) -> None:
    """Print a recipe as it is shipped, comments included."""
    from tdd_cli.recipe import find_recipe, read_text

    typer.echo(read_text(find_recipe(name)), nl=False)


@recipes_app.command()
def keys() -> None:
    """Print every key of a recipe: what it must be, its default, what it means."""
    from tdd_cli.recipe import KEYS

    for key in KEYS:
        typer.echo(_line(key))


@recipes_app.command(name="copy")
def copy_recipe(
    name: Name,
    destination: Annotated[
        Path | None, typer.Argument(help="A file or a folder. Default: NAME.yaml here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Copy a recipe, to change it and run it by its path."""
    from tdd_cli.errors import UsageError
    from tdd_cli.files import write_atomic
    from tdd_cli.recipe import find_recipe

    source = find_recipe(name)
    target = Path(f"{source.stem}.yaml") if destination is None else destination
    target = target / f"{source.stem}.yaml" if target.is_dir() else target
    if target.exists() and not force:
        raise UsageError(f"{target} already exists", hint="Give another name, or --force to overwrite it.")
    try:
        write_atomic(target, source.read_bytes())
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    typer.echo(f"{target}: edit it, then tdd distill --recipe {target}")


def _line(key: Key) -> str:
    """One key as `target.k_min (tdd): an integer >= 1; default 4. What it means.`"""
    from tdd_cli import yaml_lines

    variant = f" ({key.variant})" if key.variant else ""
    given = "required" if key.default is ... else f"default {yaml_lines.dump(key.default).splitlines()[0]}"
    return f"{key.path}{variant}: {key.wanted}; {given}. {key.description}"
