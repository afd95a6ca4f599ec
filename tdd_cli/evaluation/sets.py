"""The named sets of `tdd eval --set`: each opens captions and real pictures as an EvalSet."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from PIL import Image
from torch import Generator, Tensor

from tdd_cli.data import tables
from tdd_cli.data.sources import Columns
from tdd_cli.errors import DataError, MissingComponent, TddError, UsageError
from tdd_cli.evaluation import coco
from tdd_cli.evaluation.cache import cache_folder
from tdd_cli.evaluation.identity import fingerprint
from tdd_cli.evaluation.protocol import EvalSet, Reference, text_hash
from tdd_cli.hashes import file_hash
from tdd_cli.pictures import to_images
from tdd_cli.recipe_keys import did_you_mean

PARTI_FILE, PARTI_HUB, PARTI_COUNT = "PartiPrompts.tsv", "nateraw/parti-prompts", 1632
EMOJI_N = 1000


def open_set(name: str, *, data: str | None = None, side: int | None = None) -> EvalSet:
    """The set of a name such as coco30k, emoji or folder:DIR.

    `data` says where the files of coco* and parti are; `side` is the size folder:DIR is brought to, pixels.
    """
    if name.startswith("folder:"):
        return folder(name.removeprefix("folder:"), side)
    if name not in SETS:
        raise UsageError(
            f"unknown set {name!r}{did_you_mean(name, SETS)}",
            hint=f"Sets: {', '.join(SETS)}, folder:DIR.",
        )
    if side is not None:
        raise UsageError(f"{name} has its own picture size", hint="--resize is for folder:DIR.")
    return SETS[name](data)


def emoji(data: str | None) -> EvalSet:
    """Captions and pictures of the bundled emoji, displaced as in training, in an order by hash."""
    from tdd_cli.bundled.emoji import DATA, IMAGE_SIZE, captions, dataset

    if data is not None:
        raise UsageError("the emoji set is bundled", hint="Leave out --data.")
    found = dataset.load()
    order = coco.by_hash(range(len(found.rows)))
    rows = [found.rows[i] for i in order]
    texts = [captions.caption(row, Generator().manual_seed(i)) for i, row in zip(order, rows, strict=True)]
    chosen = {
        name: value.default
        for name, value in inspect.signature(dataset.displaced).parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    return EvalSet(
        name="emoji",
        version=1,
        captions=tuple(texts),
        n=EMOJI_N,
        reference=Reference(
            Displaced(found.images[order]),
            f"all bundled emoji, displaced with seed 0 ({chosen})",
            text_hash([file_hash(DATA), repr(chosen)]),
        ),
        side=IMAGE_SIZE,
        features={"fid": "emoji", "kid": "emoji", "clip": "emoji", "teacher": "emoji"},
        notes=(
            "Features of the bundled network, which knows emoji only: comparable with figures of this set "
            "and this network, never with published FID, KID or CLIP scores",
        ),
    )


class Displaced:
    """The emoji in an order, each displaced by the same seed; made when first asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images = images  # [N, 3, H, W] in [-1, 1]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def pixels(self) -> Tensor:
        """[N, 3, H, W] in [-1, 1]"""
        from tdd_cli.bundled.emoji import dataset

        return dataset.displaced(self.images, Generator().manual_seed(0))

    def picture(self, index: int) -> Image.Image:
        """Picture `index`, RGB."""
        return to_images(self.pixels[index : index + 1])[0]


def folder(path: str, side: int | None) -> EvalSet:
    """All pictures of a folder with captions (metadata.csv or .jsonl), in the folder's order."""
    if not Path(path).is_dir():
        raise DataError(f"there is no folder {path}", hint="Give one with pictures and a metadata.csv.")
    source = tables.folder(Path(path), Columns())
    generator = Generator().manual_seed(0)
    texts = tuple(source.caption(i, generator) for i in range(len(source)))
    return EvalSet(
        name="folder",
        version=1,
        captions=texts,
        n=len(texts),
        reference=Reference(source, "all pictures of the folder", fingerprint(Path(path))),
        side=side,
        notes=("A set of your own: comparable with figures of the same folder only",),
    )


def parti(data: str | None) -> EvalSet:
    """PartiPrompts (Yu et al. 2022): 1,632 prompts, no pictures."""
    return EvalSet(
        name="parti",
        version=1,
        captions=tuple(_parti_prompts(data)),
        n=PARTI_COUNT,
        reference=None,
        side=None,
        prefix="A photo depicts ",
        notes=("Prompts without real pictures: clip, teacher and speed only",),
    )


def _parti_prompts(data: str | None) -> list[str]:
    """The prompts of the published table, from a file, its folder, or the hub."""
    given = Path(data) if data else cache_folder() / PARTI_FILE
    file = given / PARTI_FILE if given.is_dir() else given
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        if not rows or "Prompt" not in rows[0]:
            raise DataError(f"{file} has no column Prompt", hint="It is the published tab-separated table.")
        return [row["Prompt"] for row in rows]
    try:
        return [str(prompt) for prompt in coco.from_hub(data or PARTI_HUB, "train")["Prompt"]]
    except (TddError, KeyError) as error:
        raise MissingComponent(
            f"PartiPrompts are neither at {file} nor on the hub ({error})",
            hint=f"Put {PARTI_FILE} of google-research/parti there, or name it: --data FILE",
        ) from None


SETS: dict[str, Callable[[str | None], EvalSet]] = {
    "coco30k": coco.coco30k,
    "coco10k": coco.coco10k,
    "coco5k": coco.coco5k,
    "coco2k": coco.coco2k,
    "parti": parti,
    "emoji": emoji,
}
