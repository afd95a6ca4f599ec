"""COCO captions and pictures: the official folders, or the hub; which captions are taken is a fixed rule.

DIR/annotations/captions_val2014.json and DIR/val2014/*.jpg, as the official zip files unpack.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tdd_cli.data.pictures import decode, encoded
from tdd_cli.data.rejects import Reject
from tdd_cli.errors import DataError, MissingComponent
from tdd_cli.evaluation.cache import cache_folder
from tdd_cli.evaluation.identity import contents_hash
from tdd_cli.evaluation.protocol import EvalSet, Published, Reference, text_hash

PREFIX = "A photo depicts "  # CLIPScore's (Hessel et al. 2021), DMD2's too
PICTURES = {2014: 40_504, 2017: 5_000}  # of each year's validation set
HUB = {2014: "lmms-lab/COCO-Caption", 2017: "lmms-lab/COCO-Caption2017"}
KNOWN = Published(
    "fid",
    "inception",
    "Published in this protocol, SD1.5: SiD-LSG 8.15, DMD2 8.35 (other lists of 30,000 captions: +- 0.1)",
)


def coco30k(data: str | None) -> EvalSet:
    """30,000 captions of COCO 2014 val, one a picture, against all of its 40,504 pictures at 256 px."""
    return _set("coco30k", 2014, data, n=30_000, side=256, published=(KNOWN,))


def coco10k(data: str | None) -> EvalSet:
    """The first 10,000 of coco30k, at 512 px: for SDXL and its like."""
    return _set("coco10k", 2014, data, n=10_000, side=512)


def coco2k(data: str | None) -> EvalSet:
    """The first 2,000 of coco30k: a quick look."""
    return _set("coco2k", 2014, data, n=2_000, side=256)


def coco5k(data: str | None) -> EvalSet:
    """All 5,000 pictures of COCO 2017 val with their first captions: FID-5k."""
    return _set("coco5k", 2017, data, n=5_000, side=256, notes=("FID-5k: never to be mixed with FID-30k",))


def _set(name: str, year: int, data: str | None, *, n: int, side: int, **more: Any) -> EvalSet:
    captions, reference = open_coco(data, year)
    return EvalSet(name, 1, captions, n, reference, side, prefix=PREFIX, complete=PICTURES[year], **more)


def open_coco(data: str | None, year: int) -> tuple[tuple[str, ...], Reference]:
    """(one caption for each picture in the order of `by_hash`, all pictures) of a validation set."""
    given = [Path(data).expanduser()] if data else [Path("coco"), cache_folder() / "coco"]
    for root in given:
        if root.is_dir() and (data or _captions(root, year).is_file()):
            return _from_folder(root, year)
    if data and not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        raise DataError(f"there is no folder {data}", hint=layout(data, year))
    repo = data or HUB[year]
    try:
        rows = from_hub(repo, "val")
    except MissingComponent as error:
        places = " nor ".join(str(root) for root in given if str(root) != data)
        raise MissingComponent(
            f"COCO {year} is not here{f', neither at {places}' if places else ''}, and {error.message}",
            hint=layout(data or "coco", year),
        ) from None
    return _from_rows(rows, repo, year)


def layout(root: str, year: int) -> str:
    """What has to be where."""
    return (
        f"Unpack val{year}.zip and annotations_trainval{year}.zip of cocodataset.org into one folder, so "
        f"that there are {root}/val{year}/*.jpg and {root}/annotations/captions_val{year}.json; "
        f"then --data {root}."
    )


def by_hash(ids: Iterable[int]) -> list[int]:
    """Numbers in the order of their decimal digits' SHA-256: a shuffle that every language can repeat."""
    return sorted(ids, key=lambda number: hashlib.sha256(str(number).encode()).hexdigest())


# --- the official folders ---


@dataclass(frozen=True)
class Files:
    """Pictures that are files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Image.Image:
        """Picture `index`, RGB; DataError if it cannot be decoded."""
        path = self.paths[index]
        return _decoded(str(path), str(path))


def _from_folder(root: Path, year: int) -> tuple[tuple[str, ...], Reference]:
    found = _annotations(_captions(root, year), str(root), year)
    names = {int(image["id"]): str(image["file_name"]) for image in found["images"]}
    first: dict[int, tuple[int, str]] = {}  # picture -> (the caption's id, caption), the smallest id
    for one in found["annotations"]:
        picture, caption = int(one["image_id"]), (int(one["id"]), str(one["caption"]).strip())
        first[picture] = min(first.get(picture, caption), caption)
    order = by_hash(names)
    paths = [root / f"val{year}" / names[i] for i in order]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(paths):,} pictures are missing, the first {missing[0]}",
            hint=layout(str(root), year),
        )
    captions = tuple(first[i][1] for i in order if i in first)
    return captions, Reference(Files(paths), f"COCO val{year}, all pictures", contents_hash(paths, root))


def _captions(root: Path, year: int) -> Path:
    return root / "annotations" / f"captions_val{year}.json"


def _annotations(path: Path, root: str, year: int) -> dict[str, Any]:
    """The official annotation file; DataError where it is none."""
    if not path.is_file():
        raise DataError(f"{path} is missing", hint=layout(root, year))
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["images"] and found["annotations"]:
            return found
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not COCO's caption file: {error!r}", hint=layout(root, year)) from None
    raise DataError(f"{path} lists no pictures or no captions", hint=layout(root, year))


# --- the hub ---


@dataclass(frozen=True)
class Rows:
    """Pictures out of a table of the hub, in an order."""

    rows: Any  # datasets.Dataset with a column image, left encoded
    order: Sequence[int]

    def __len__(self) -> int:
        return len(self.order)

    def picture(self, index: int) -> Image.Image:
        """Picture `index`, RGB; DataError if it cannot be decoded."""
        row = self.order[index]
        return _decoded(self.rows[row]["image"], f"row {row}")


def _decoded(cell: Any, where: str) -> Image.Image:
    try:
        return decode(*encoded(cell, where))
    except Reject as reject:
        raise DataError(str(reject), hint="Remove it or replace it.") from None


def from_hub(repo: str, split: str) -> Any:
    """A split of a hub data set, downloaded once; MissingComponent where the hub does not give it."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    from tdd_cli.families.hub import hub_answers

    if not hub_answers():
        raise MissingComponent(f"the hub, where {repo} is, does not answer")
    try:
        return load_dataset(repo, split=split)
    except (DatasetsError, OSError, ValueError, ConnectionError) as error:
        raise MissingComponent(f"the hub does not give {repo} ({str(error).splitlines()[0][:200]})") from None


def _from_rows(rows: Any, repo: str, year: int) -> tuple[tuple[str, ...], Reference]:
    """As `_from_folder`, of a table with the columns image, answer (all captions) and file_name."""
    from datasets import Image as Encoded

    lacks = {"image", "answer", "file_name"} - set(rows.column_names)
    if lacks:
        raise DataError(f"{repo} has no column {', '.join(sorted(lacks))}", hint=layout("coco", year))
    names = [str(name) for name in rows["file_name"]]
    row_of = {int(Path(name).stem.rpartition("_")[2]): row for row, name in enumerate(names)}
    order = [row_of[i] for i in by_hash(row_of)]
    answers = rows["answer"]
    captions = tuple(str(answers[row][0]).strip() for row in order)
    what = f"COCO val{year}, all pictures, from the hub's {repo}"
    identity = text_hash([rows._fingerprint, *(names[row] for row in order)])  # of the revision downloaded
    pictures = Rows(rows.cast_column("image", Encoded(decode=False)), order)
    return captions, Reference(pictures, what, identity)
