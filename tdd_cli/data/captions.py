"""What a picture is called: the labels a source has for it, and the caption drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Generator

from tdd_cli.data.rejects import Reject

Labels = dict[str, Any]
"""What a source knows of a picture besides its pixels; JSON, so that a cache can keep it."""

Row = TypeVar("Row")
Caption = Callable[[Labels, Generator], str]
"""Draws one caption from a picture's labels."""


def texts(cell: Any, where: str) -> list[str]:
    """The captions in a table's cell or a caption file: text, bytes in UTF-8, or a list of such."""
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    try:
        found = [one.decode("utf-8-sig") if isinstance(one, bytes) else one for one in cells]
        kept = [str(one).strip() for one in found if one is not None]
        "".join(kept).encode()  # half of a surrogate pair is no text, and no tokenizer takes it
    except (UnicodeError, RecursionError):  # the latter of lists in lists
        raise Reject("unreadable caption", where) from None
    if not any(kept):
        raise Reject("no caption", where)
    return [one for one in kept if one]


def legible(read: Callable[[], Row], where: str) -> Row:
    """What `read` gives of a table; Reject where its text is not UTF-8."""
    try:
        return read()
    except UnicodeDecodeError:
        raise Reject("unreadable caption", where) from None


def first(labels: Labels, generator: Generator) -> str:
    """The first of a picture's captions."""
    found: list[str] = labels["captions"]
    return found[0]


def random(labels: Labels, generator: Generator) -> str:
    """One of a picture's captions, drawn."""
    found: list[str] = labels["captions"]
    return found[0 if len(found) == 1 else int(torch.randint(len(found), (), generator=generator))]


def emoji(labels: Labels, generator: Generator) -> str:
    """A caption of the bundled emoji: its name or its keywords, now and then its style."""
    from tdd_cli.bundled.emoji.captions import Row, caption

    return caption(
        Row(labels["name"], tuple(labels["keywords"]), labels["group"], labels["style"]), generator
    )


CAPTIONS: dict[str, Caption] = {"random": random, "first": first, "emoji": emoji}
"""By the name of the rule, which a cache keeps."""
