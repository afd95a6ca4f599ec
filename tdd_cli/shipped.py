"""Where the shipped recipes are. Imports nothing, so that shell completion answers at once."""

from __future__ import annotations

from pathlib import Path


def recipe_folder() -> Path:
    """The folder of shipped recipes: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))
