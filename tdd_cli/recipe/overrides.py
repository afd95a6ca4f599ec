"""`--set key=value`: changes to a recipe before it is checked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tdd_cli import yaml_lines
from tdd_cli.errors import RecipeError
from tdd_cli.recipe.method import VARIANTS
from tdd_cli.recipe.schema import PATHS, variant_keys
from tdd_cli.recipe_keys import did_you_mean
from tdd_cli.yaml_lines import Where


def with_overrides(
    data: dict[str, Any], places: dict[Where, str], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[Where, str]]:
    """The data and the places with every `key=value` put in; the ones that choose a variant go first."""
    data, places = copy.deepcopy(data), dict(places)
    pairs = [_split(override) for override in overrides]
    choices = {f"{section}.{key}" for section, key in VARIANTS.items()}
    for path, value, text in sorted(pairs, key=lambda pair: pair[0] not in choices):
        if path in choices:
            _drop_other_variant(data, path, value)
        _put(data, path.split("."), value)
        places[tuple(path.split("."))] = f"--set {text}"
    return data, places


def _split(override: str) -> tuple[str, Any, str]:
    """(key, value, text) of one `key=value`, split at the first "="; the value is YAML."""
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals:
        raise RecipeError(
            f"--set {override!r} has no value", hint="Write --set key=value, for instance train.lr=1e-4."
        )
    if path not in PATHS:
        also = did_you_mean(path, sorted(PATHS))
        raise RecipeError(f"unknown key {path!r} in --set{also}", hint="tdd recipes keys lists every key.")
    value, _ = yaml_lines.load(text, lambda line: f"--set {override}")
    return path, value, override


def _drop_other_variant(data: dict[str, Any], path: str, value: Any) -> None:
    """Remove from the section what its present variant knows and the chosen one does not."""
    name, choice = path.split(".")
    section = data.get(name)
    if isinstance(section, dict) and section.get(choice) != value:
        foreign = variant_keys(name, section.get(choice)) - variant_keys(name, value)
        data[name] = {key: kept for key, kept in section.items() if key not in foreign}


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[path[-1]] = value
