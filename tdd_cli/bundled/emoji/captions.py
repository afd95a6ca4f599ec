"""What a picture is called: captions that vary in training, and the plain prompt that evaluation uses."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tdd_cli.bundled.emoji import STYLES


class Row(NamedTuple):
    """One picture's labels."""

    name: str
    keywords: tuple[str, ...]
    group: str
    style: str


def prompt(name: str) -> str:
    """The prompt of the evaluation; "a" before everything, so that it is the same rule for all."""
    return f"a {name}"


def caption(row: Row, generator: torch.Generator) -> str:
    """A caption of the picture: mostly "a <name>", sometimes its keywords, the style named in every third."""
    text = _subject(row, generator)
    if _chance(1 / 3, generator):
        text += ", " + _pick((f"{STYLES[row.style]} style", STYLES[row.style]), generator)
    return text


def _subject(row: Row, generator: torch.Generator) -> str:
    """The picture's thing, in one of several wordings."""
    draw = torch.rand((), generator=generator).item()
    if draw < 0.65:
        article = "an" if row.name[0].lower() in "aeiou" and _chance(0.5, generator) else "a"
        return f"{article} {row.name}"
    if draw < 0.75:
        return row.name
    if draw < 0.87 or not row.keywords:
        return f"{row.name} emoji"
    return f"{row.name}, {_pick(row.keywords, generator)}"


def _pick(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _chance(share: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < share


def all_wordings(rows: list[Row]) -> list[str]:
    """Every word a caption can hold, in its places: what the tokenizer is trained on."""
    texts = []
    for row in rows:
        style = STYLES[row.style]
        texts += [
            f"a {row.name}",
            f"an {row.name}, {style} style",
            f"{row.name} emoji, {style}",
            *row.keywords,
        ]
    return texts
