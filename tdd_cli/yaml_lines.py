"""YAML as recipes use it: plain data, the line of every key, and no surprises.

Numbers and booleans follow YAML 1.2 (`1e-4` is a number, `on` and `no` are text, `010` is ten). Aliases, tags
for anything but scalars, duplicate keys and keys that are not text are refused: a recipe never needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tdd_cli.errors import RecipeError

Where = tuple[str | int, ...]
"""Where a value stands: ("train", "lr"), or ("preview", "prompts", 0)."""

_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": int,
    _TAG + "float": lambda text: float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower())),
    _TAG + "str": str,
}
_PLAIN = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(?:_[0-9]+)*", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used in recipes", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Double quotes for text with an unusual line break: the other styles turn it into a plain one."""
        style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
        return self.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)

for _class in (_Loader, _Dumper):
    for _name, _pattern, _first in _PLAIN:
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


def load(text: str, place: Callable[[int], str]) -> tuple[Any, dict[Where, str]]:
    """The data in `text`, and for each path in it where it stands; `place` words a line number (from 1).

    Raises RecipeError, with the line, for anything that is not plain YAML.
    """
    try:
        node = _Loader(text).get_single_node()
        places: dict[Where, str] = {}
        return (None if node is None else _plain(node, (), place, places)), places
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, place) from None
    except RecursionError:
        raise RecipeError(f"{place(1)}: nested too deeply for a recipe") from None


def dump(data: Any) -> str:
    """`data` as YAML text that `load` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _plain(node: yaml.Node, path: Where, place: Callable[[int], str], places: dict[Where, str]) -> Any:
    places.setdefault(path, place(node.start_mark.line + 1))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), place, places) for i, item in enumerate(node.value)]
    return {
        key: _plain(value, (*path, key), place, places) for key, value in _items(node, path, place, places)
    }


def _items(
    node: yaml.Node, path: Where, place: Callable[[int], str], places: dict[Where, str]
) -> Iterator[tuple[str, yaml.Node]]:
    """The (key, value node) pairs of a mapping; notes the line of each key."""
    for key_node, value in node.value:
        here = place(key_node.start_mark.line + 1)
        key = _scalar(key_node, place) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise RecipeError(f"{here}: a key must be a word, got {getattr(key_node, 'value', '')!s:.40}")
        key_path = (*path, key)
        if key_path in places:
            hint = "Delete one of the two."
            raise RecipeError(f"{here}: {key!r} is given twice (first: {places[key_path]})", hint=hint)
        places[key_path] = here
        yield key, value


def _scalar(node: yaml.ScalarNode, place: Callable[[int], str]) -> Any:
    here = place(node.start_mark.line + 1)
    if node.tag not in _SCALARS:
        raise RecipeError(f"{here}: the tag {node.tag!r} is not used in recipes")
    try:
        return _SCALARS[node.tag](node.value)
    except ValueError:
        raise RecipeError(f"{here}: {node.value[:40]!r} is not a usable number") from None


def _syntax_error(error: yaml.YAMLError, text: str, place: Callable[[int], str]) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", 0)  # all that a ReaderError knows
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    hint = (
        "Indent with spaces: YAML takes no tabs."
        if "'\\t'" in problem
        else "Quote text that holds : # [ ] { } or quotes."
    )
    return RecipeError(f"{place(line)}: not valid YAML: {problem}", hint=hint)
