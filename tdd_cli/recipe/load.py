"""From a name, a file or text to a recipe, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tdd_cli import yaml_lines
from tdd_cli.errors import RecipeError
from tdd_cli.recipe.overrides import with_overrides
from tdd_cli.recipe.schema import Recipe
from tdd_cli.recipe.wording import as_recipe_error, described
from tdd_cli.recipe_keys import nearest
from tdd_cli.shipped import recipe_folder, recipe_names

DEFAULT_RECIPE = "emoji-4to8"
_MAX_BYTES = 1_000_000  # far beyond any recipe: whoever gives a larger file gave the wrong one


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a shipped name or a YAML file, with `key=value` overrides applied.

    An override that chooses another variant (target.rule=pcm) drops the keys only the file's variant knows,
    so every rule can be tried on every recipe. Raises RecipeError listing all mistakes, each with its line.
    """
    file = find_recipe(name_or_path)
    return parse_recipe(read_text(file), str(file), overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `text`; `source` names it in error messages."""
    data, places = yaml_lines.load(text, lambda line: f"{source}:{line}")
    places[()] = source
    if data is None:
        raise RecipeError(f"{source} is empty", hint="Start from a copy: tdd recipes copy emoji-4to8 my.yaml")
    if not isinstance(data, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of sections (model:, data:, ...), got {described(data)}"
        )
    data, places = with_overrides(data, places, overrides)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise as_recipe_error(error, data, places) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal one."""
    return yaml_lines.dump(recipe.model_dump())


def recipe_name(name_or_path: str | Path) -> str:
    """A short name for a recipe: the file's stem."""
    return Path(name_or_path).stem or "recipe"


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe given by shipped name or by path."""
    text = str(name_or_path)
    shipped = recipe_folder() / f"{text}.yaml"
    if text in recipe_names():
        return shipped
    file = Path(text)
    if file.is_dir():
        inside = file / "recipe.yaml"
        hint = f"Did you mean {inside}?" if inside.is_file() else "Give the YAML file itself."
        raise RecipeError(f"{text!r} is a folder, not a recipe", hint=hint)
    if not file.exists():
        close = nearest(file.stem, recipe_names())
        shown = f"Did you mean {close!r}? " if close else ""
        raise RecipeError(
            f"there is no recipe or file {text!r}", hint=f"{shown}Shipped: {', '.join(recipe_names())}."
        )
    return file


def read_text(file: Path) -> str:
    """The text of a recipe file; RecipeError where it cannot be one."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise RecipeError(
                f"{file} is {file.stat().st_size:,} bytes: not a recipe, which is a short YAML file"
            )
        content = file.read_bytes()
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file}:{line}: not UTF-8 text", hint="Save the recipe as UTF-8.") from None
