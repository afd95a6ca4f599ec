"""A cache on disk: tensors and labels of many samples in safetensors files, under a key that says of what.

key.json                    what the cache was made from; a cache whose key differs is refused
part-00000.safetensors      "3.x0", "3.sizes", "3.labels" (JSON as bytes), ... of the part's fourth sample
part-00000.json             how many samples there are, their shapes, what was left out; written last
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tdd_cli.data.captions import Labels
from tdd_cli.errors import DataError
from tdd_cli.files import replacing, write_atomic
from tdd_cli.hashes import json_hash

Parts = dict[str, Any]
"""What a cache is made from, by recipe key or in words: JSON values."""


@dataclass(frozen=True)
class Entry:
    """One sample as it is kept."""

    tensors: Mapping[str, Tensor]  # x0 [C, h, w], sizes [6], and the like
    labels: Labels


class Store:
    """One cache: the parts that are there, and how to write the others, each whole or not at all."""

    def __init__(self, folder: Path, key: Parts, *, samples: int, per_part: int = 256) -> None:
        """Open or begin the cache in `folder`; DataError where another key's is there.

        samples  how many it is made from, used or left out; per_part: of these in one file
        """
        self.folder, self.samples, self.per_part = folder, samples, per_part
        key = json.loads(json.dumps({**key, "samples": samples, "per_part": per_part}))
        self.hash = json_hash(key)  # 64 hex digits, of everything the cache is made from
        file = folder / "key.json"
        if file.is_file():
            _check_same(folder, json.loads(file.read_text("utf-8")), key)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(key, indent=2) + "\n")

    def missing(self) -> list[tuple[int, range]]:
        """(number, which samples) of each part that is not there yet."""
        parts = range(-(-self.samples // self.per_part))
        return [(part, self._range(part)) for part in parts if not self._index(part).is_file()]

    def write(self, part: int, entries: Sequence[Entry], left_out: Mapping[str, int]) -> None:
        """Write a part; its index, which makes it count, last."""
        tensors = {}
        for row, entry in enumerate(entries):
            text = json.dumps(entry.labels).encode()
            tensors[f"{row}.labels"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            tensors |= {f"{row}.{name}": value.contiguous() for name, value in entry.tensors.items()}
        with replacing(self._tensors(part)) as beside:
            save_file(tensors, beside)
        index = {
            "names": sorted(entries[0].tensors) if entries else [],
            "shapes": [list(entry.tensors["x0"].shape) for entry in entries],
            "left_out": dict(left_out),
        }
        write_atomic(self._index(part), json.dumps(index))

    def load(self) -> Contents:
        """What is in the complete cache; DataError where every sample was left out."""
        assert not self.missing()
        parts = range(-(-self.samples // self.per_part))
        indices = [json.loads(self._index(part).read_text("utf-8")) for part in parts]
        shapes = [tuple(shape) for index in indices for shape in index["shapes"]]
        left_out: Counter[str] = Counter()
        for index in indices:
            left_out.update(index["left_out"])
        return Contents(
            [self._tensors(part) for part in parts],
            [0, *accumulate(len(index["shapes"]) for index in indices)],
            shapes,
            sorted({name for index in indices for name in index["names"]}),
            dict(left_out),
        )

    def _range(self, part: int) -> range:
        return range(part * self.per_part, min((part + 1) * self.per_part, self.samples))

    def _tensors(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.safetensors"

    def _index(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.json"


@dataclass(frozen=True)
class Contents:
    """The samples of a complete cache, by number."""

    files: list[Path]
    starts: list[int]  # number of each file's first sample, and at the end of all
    shapes: list[tuple[int, ...]]  # of each sample's x0
    names: list[str]  # of a sample's tensors
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.shapes)

    def read(self, number: int, names: Sequence[str]) -> tuple[dict[str, Tensor], Labels]:
        """(some tensors of a sample, its labels)."""
        part = bisect_right(self.starts, number) - 1
        row, file = number - self.starts[part], _opened(self.files[part])
        try:
            labels = json.loads(file.get_tensor(f"{row}.labels").numpy().tobytes())
            return {name: file.get_tensor(f"{row}.{name}") for name in names}, labels
        except (SafetensorError, ValueError) as error:
            raise DataError(
                f"the cache file {self.files[part]} cannot be read: {error}",
                hint="Remove it and its .json: it is then made again.",
            ) from None


def cache_name(kind: str, key: Parts) -> str:
    """A folder's name for the cache of a key."""
    return f"{kind}-{json_hash(key)[:12]}"


def bytes_worded(count: float) -> str:
    """A size for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def check_room(folder: Path, needed: int) -> None:
    """DataError where the disk has less room than `needed` bytes."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(
            f"the cache in {folder} needs about {bytes_worded(needed)}, and {bytes_worded(free)} are free",
            hint="Set data.cache_folder to a larger disk, use data.cache=latents, or none.",
        )


@lru_cache(maxsize=64)
def _opened(path: Path) -> Any:
    """A cache file, mapped into memory; the few used last stay open."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"the cache file {path} cannot be read: {error}",
            hint="Remove it and its .json: it is then made again.",
        ) from None


def _check_same(folder: Path, theirs: Parts, ours: Parts) -> None:
    differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if differing:
        lines = [
            f"  {name}: {_short(theirs.get(name))} there, {_short(ours.get(name))} here" for name in differing
        ]
        raise DataError(
            f"the cache in {folder} was made from something else:\n" + "\n".join(lines),
            hint="Give another data.cache_folder, or none: each key then has its own under cache/.",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
