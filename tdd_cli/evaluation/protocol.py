"""A protocol: which captions, which real pictures, and what is done to a picture before a network sees it.

Figures of two protocols cannot be compared, so every result carries its own whole protocol and its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from tdd_cli.errors import DataError
from tdd_cli.hashes import json_hash


class Pictures(Protocol):
    """Pictures by number; sources of training data are some too."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """The picture, RGB; DataError if it cannot be decoded."""


@dataclass(frozen=True)
class Reference:
    """The real pictures, and what identifies them."""

    pictures: Pictures
    what: str  # in words, for the record
    sha256: str  # of whatever determines the pictures


@dataclass(frozen=True)
class Published:
    """What others have published in a set's protocol, with one metric of one network."""

    metric: str
    network: str
    what: str


@dataclass(frozen=True)
class EvalSet:
    """A named set as opened: all it holds, before n is chosen."""

    name: str
    version: int  # raised whenever a figure of the set would change
    captions: tuple[str, ...]
    n: int  # pictures the protocol asks for
    reference: Reference | None
    side: int | None  # pictures are cropped and resized to this; None: all must have one size already
    features: Mapping[str, str] = field(default_factory=dict)  # metric -> network, where not the metric's own
    prefix: str = ""  # before a caption when it is compared with a picture
    complete: int | None = None  # reference pictures the full protocol has
    notes: tuple[str, ...] = ()  # what its figures may be compared with
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Rules:
    """A set with n and the first seed chosen: everything that two results must share."""

    set: EvalSet
    n: int
    seed: int = 0

    @property
    def captions(self) -> tuple[str, ...]:
        """The n captions drawn."""
        return self.set.captions[: self.n]

    def record(self) -> dict[str, Any]:
        """The protocol as it stands in every result."""
        known = self.set.reference
        return {
            "set": self.set.name,
            "version": self.set.version,
            "n": self.n,
            "captions_sha256": text_hash(self.captions),
            "caption_prefix": self.set.prefix,
            "reference": known and {"what": known.what, "n": len(known.pictures), "sha256": known.sha256},
            "picture": frame_text(self.set.side),
            "seeds": f"{self.seed} + the caption's number",
        }

    @property
    def sha256(self) -> str:
        """The protocol's hash: equal where figures may be compared."""
        return record_hash(self.record())


def choose(found: EvalSet, n: int | None, *, seed: int = 0) -> Rules:
    """The first n captions of a set, its own number by default; DataError where it has too few."""
    wanted = n or found.n
    if wanted > len(found.captions):
        raise DataError(
            f"{found.name} needs {wanted:,} captions, and there are {len(found.captions):,}",
            hint=f"Complete the data, or take fewer: --n {len(found.captions)}",
        )
    return Rules(found, wanted, seed)


def frame(image: Image.Image, side: int | None) -> Image.Image:
    """The picture's middle square, Lanczos-resized to `side` pixels; as it is where side is None."""
    if side is None:
        return image
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image if image.width == image.height else image.crop((left, top, left + short, top + short))
    return square if short == side else square.resize((side, side), Image.Resampling.LANCZOS)


def frame_text(side: int | None) -> str:
    """What `frame` does, for the record."""
    return "as it is" if side is None else f"centre crop to a square, Lanczos to {side} px (Pillow)"


def record_hash(record: Mapping[str, Any]) -> str:
    """A hash of values that JSON can hold, 64 hex digits."""
    return json_hash(dict(record))


def text_hash(lines: Iterable[str]) -> str:
    """A hash of texts and their order, 64 hex digits."""
    return record_hash({"lines": list(lines)})
