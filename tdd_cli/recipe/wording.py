"""What pydantic found wrong with a recipe, in the words of whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from tdd_cli.errors import RecipeError
from tdd_cli.recipe.method import VARIANTS
from tdd_cli.recipe.schema import KEYS, PATHS, variant_keys
from tdd_cli.recipe_keys import did_you_mean
from tdd_cli.yaml_lines import Where


def as_recipe_error(error: ValidationError, data: dict[str, Any], places: dict[Where, str]) -> RecipeError:
    """All mistakes pydantic found, one line each, in the order of the file."""
    lines = [line for one in error.errors() for line in _worded(one, data, places)]
    shown = lines[:15] + ([f"... and {len(lines) - 15} more"] if len(lines) > 15 else [])
    return RecipeError("\n".join(shown), hint="tdd recipes keys lists every key, its type and its default.")


def _worded(one: Any, data: dict[str, Any], places: dict[Where, str]) -> Iterator[str]:
    """One pydantic error as `where: what must be, got what`."""
    path: Where = one["loc"]
    if path and path[0] in VARIANTS and len(path) > 1:
        path = (path[0], *path[2:])  # pydantic puts the variant's name in between
    if one["type"] == "conflict":
        for dotted, problem in one["ctx"]["conflicts"]:
            yield f"{_place(tuple(dotted.split('.')), places)}: {dotted} {problem}"
    elif one["type"] == "extra_forbidden":
        yield f"{_place(path, places)}: {_unknown(path, data)}"
    elif one["type"] in ("union_tag_invalid", "union_tag_not_found") and isinstance(one["input"], dict):
        path = (*path, VARIANTS[str(path[0])])
        given = one["input"].get(path[-1]) if path[-1] in one["input"] else ...
        yield f"{_place(path, places)}: {_mismatch(path, given)}"
    else:
        yield f"{_place(path, places)}: {_mismatch(path, ... if one['type'] == 'missing' else one['input'])}"


def _place(path: Where, places: dict[Where, str]) -> str:
    """Where `path` stands; for what is missing, the section it is missing from."""
    while path not in places:
        path = path[:-1]
    return places[path]


def _mismatch(path: Where, given: Any) -> str:
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    key_path = ".".join(part for part in path if isinstance(part, str))
    words = list(dict.fromkeys(key.wanted for key in KEYS if key.path == key_path))
    if not words:  # a whole section
        words = ["a mapping of keys (" + ", ".join(_section_keys(key_path)) + ")"]
    elif isinstance(path[-1], int):
        words = [word.removeprefix("a list of ") for word in words]
    elif len(words) > 1:
        words = ["one of " + ", ".join(words)]
    return (
        f"{dotted} is missing; it must be {words[0]}"
        if given is ...
        else f"{dotted} must be {words[0]}, got {described(given)}"
    )


def _section_keys(section: str) -> list[str]:
    return list(
        dict.fromkeys(key.path.partition(".")[2] for key in KEYS if key.path.startswith(section + "."))
    )


def _unknown(path: Where, data: dict[str, Any]) -> str:
    """What to say of a key nobody reads: whose it is, or the nearest one."""
    dotted = ".".join(map(str, path))
    section = str(path[0])
    owners = [key.variant for key in KEYS if key.path == dotted and key.variant]
    if owners:
        chosen = data[section][VARIANTS[section]]
        takes = ", ".join(sorted(variant_keys(section, chosen) - {VARIANTS[section]})) or "no keys"
        return f"{dotted} belongs to {VARIANTS[section]} {owners[0]}; {chosen} takes {takes}"
    siblings = [known for known in PATHS if known.startswith(section + ".")] if len(path) > 1 else []
    close = did_you_mean(dotted, sorted(siblings)) or did_you_mean(dotted, sorted(PATHS))
    return f"unknown key {dotted!r}{close}"


def described(value: Any) -> str:
    """A value as a reader of YAML knows it, short."""
    names: dict[type, str] = {
        dict: "a mapping",
        list: "a list",
        bool: str(value).lower(),
        type(None): "nothing",
    }
    text = names.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
