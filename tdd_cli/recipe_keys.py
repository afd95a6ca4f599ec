"""The keys of a recipe in words: what each must be, its default and meaning, read off the pydantic models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_TYPES = {int: "an integer", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Key:
    """One key of a recipe: `path` is "target.k_min", `variant` the "tdd" it belongs to, if only to one."""

    path: str
    variant: str | None
    wanted: str
    default: Any  # `...` where the key must be given
    description: str


def keys_of(model: type[BaseModel], prefix: str = "", variant: str | None = None) -> Iterator[Key]:
    """Every key of `model`, sections opened, in the order they are written."""
    for name, field in model.model_fields.items():
        sections = list(_sections(field.annotation))
        for section in sections:
            yield from keys_of(
                section, f"{prefix}{name}.", _variant(section) if len(sections) > 1 else variant
            )
        if not sections:
            default = ... if field.is_required() else field.default
            yield Key(prefix + name, variant, wanted(field), default, field.description or "")


def wanted(field: FieldInfo) -> str:
    """What a field must be: "an integer >= 1", "one of fp32, fp16, bf16", "text, or null"."""
    options = get_args(field.annotation) if _is_union(field.annotation) else (field.annotation,)
    words = [_type_words(option) for option in options if option is not type(None)]
    bounds = [bound for meta in field.metadata for bound in _bounds(meta)]
    text = " ".join([" or ".join(words), " and ".join(bounds)]).strip()
    return f"{text}, or null" if type(None) in options else text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known path most like `word`, by its whole or by its last part; None where nothing is alike."""

    def likeness(path: str) -> float:
        last = difflib.SequenceMatcher(None, word.rpartition(".")[2], path.rpartition(".")[2]).ratio()
        return max(difflib.SequenceMatcher(None, word, path).ratio(), 0.95 * last)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.6 else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one most like it, or nothing."""
    close = nearest(word, known)
    return f"; did you mean {close!r}?" if close else ""


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation: one for a section, several for a section with variants."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated or _is_union(annotation):
        for inner in get_args(annotation):
            yield from _sections(inner)


def _variant(model: type[BaseModel]) -> str | None:
    """The value that chooses this variant: its only field of a one-word Literal."""
    for field in model.model_fields.values():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return str(get_args(field.annotation)[0])
    return None


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _type_words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        names = [str(value) for value in get_args(annotation)]
        return names[0] if len(names) == 1 else "one of " + ", ".join(names)
    if get_origin(annotation) is tuple:
        return "a list of " + _type_words(get_args(annotation)[0])
    return _TYPES.get(annotation, str(annotation))


def _bounds(meta: Any) -> Iterator[str]:
    """The bounds in one piece of pydantic metadata, in words."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for name, sign in signs.items():
        if getattr(meta, name, None) is not None:
            yield f"{sign} {getattr(meta, name)}"
    if getattr(meta, "multiple_of", None) is not None:
        yield f"a multiple of {meta.multiple_of}"
    if getattr(meta, "min_length", None):
        yield "not empty"
