"""Pictures to evidence, shard by shard: resumable, shared out over processes, and no picture written.

A shard is a safetensors file with what is kept of some rows: their features under each network, the seconds
they took in an environment, their PSNR to the teacher's, and, where asked, the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdd_cli.errors import DataError
from tdd_cli.evaluation.memory import peak_bytes, reset_peak
from tdd_cli.evaluation.networks import Network
from tdd_cli.evaluation.protocol import frame
from tdd_cli.evaluation.subjects import Shot, Subject
from tdd_cli.files import replacing
from tdd_cli.pictures import save_png

SHARD = 64  # rows
SAMPLES, THUMB = 8, 128  # first rows kept as small pictures, for the report; pixels
BEST_PSNR = 100.0  # dB, of equal pictures


@dataclass(frozen=True)
class Wanted:
    """What is to be known of each picture."""

    networks: Sequence[Network]
    side: int | None = None  # see protocol.frame
    samples: bool = True  # keep small ones of the first rows
    pixels: bool = False  # keep the pictures: they are the teacher's
    target: Path | None = None  # shards of the teacher's pictures, for the PSNR
    timed: str | None = None  # the environment whose seconds and memory are asked for, see environment.py
    save_to: Path | None = None  # a folder for the pictures as PNG files

    def keys(self, shard: int) -> set[str]:
        """The tensors a complete shard has."""
        more = {
            "pixels": self.pixels,
            self.psnr: self.target is not None,
            "samples": shard == 0 and self.samples,
        }
        return {"rows", "size", *self.times, *(network.key for network in self.networks)} | {
            key for key, asked in more.items() if asked
        }

    @property
    def times(self) -> tuple[str, ...]:
        """What seconds and peak memory are kept under."""
        return () if self.timed is None else (f"seconds-{self.timed}", f"peak-{self.timed}")

    @property
    def psnr(self) -> str:
        """What the PSNR to the target's pictures is kept under."""
        return f"psnr-{self.target.name if self.target else None}"

    def saved(self, rows: range) -> bool:
        """Whether the pictures that are to be saved are there."""
        return self.save_to is None or all(self.png(row).is_file() for row in rows)

    def png(self, row: int) -> Path:
        """The file of a row's picture."""
        assert self.save_to is not None
        return self.save_to / f"{row:06d}.png"


@dataclass(frozen=True)
class Evidence:
    """What is known of a subject's pictures; N are the readable ones."""

    rows: Tensor  # [N] their captions' numbers
    asked: int
    size: tuple[int, int]  # height, width in pixels
    features: Mapping[str, Tensor]  # by features_key [N, D]
    seconds: Tensor | None = None  # [N]
    peak: int = 0  # bytes of memory, 0 where unknown
    psnr: Tensor | None = None  # [N] dB, to the teacher's
    samples: Mapping[int, Image.Image] = field(default_factory=dict)  # by row

    @property
    def unreadable(self) -> int:
        """How many pictures could not be read."""
        return self.asked - len(self.rows)

    def of(self, network: Network) -> Tensor:
        """Features [N, D] under a network."""
        return self.features[network.key]


def fill(
    subject: Subject,
    count: int,
    wanted: Wanted,
    folder: Path,
    *,
    shard: int = SHARD,
    worker: tuple[int, int] = (0, 1),
) -> Iterator[int]:
    """Make the shards of rows 0..count that are missing; yields how many rows this worker is done with.

    worker is (its number, how many there are): each takes every so-manyth shard.
    """
    index, workers = worker
    done = 0
    for number, rows in list(enumerate(_ranges(count, shard)))[index::workers]:
        path = shard_path(folder, rows)
        have = _keys(path)
        if not (wanted.keys(number) <= have and wanted.saved(rows)):
            kept = load_file(path) if have else {}
            with replacing(path) as beside:
                save_file({**kept, **_shard(subject, number, rows, wanted, kept)}, beside)
        done += len(rows)
        yield done


def gather(
    count: int, wanted: Wanted, folder: Path, *, shard: int = SHARD, whose: str = "the subject"
) -> Evidence:
    """The evidence of rows 0..count, whose shards are all there; DataError if no picture could be read.

    whose  the subject's name, for messages
    """
    parts = [load_file(shard_path(folder, rows)) for rows in _ranges(count, shard)]
    parts = [part for part in parts if len(part["rows"])]
    if not parts:
        raise DataError(f"{whose}: none of the pictures can be read", hint="Are they pictures at all?")
    sizes = {(height, width) for part in parts for height, width in part["size"].tolist()}
    _check_one_size(sizes, whose)
    keys = [network.key for network in wanted.networks]
    return Evidence(
        rows=torch.cat([part["rows"] for part in parts]),
        asked=count,
        size=next(iter(sorted(sizes))),
        features={key: torch.cat([part[key] for part in parts]) for key in keys},
        **_timed(parts, *wanted.times),
        psnr=torch.cat([part[wanted.psnr] for part in parts]) if wanted.target else None,
        samples=_samples(parts[0]),
    )


def samples(folder: Path, count: int) -> dict[int, Image.Image]:
    """The small pictures kept of the first of `count` rows, by row; none where their shard is not there."""
    path = shard_path(folder, _ranges(count, SHARD)[0])
    return _samples(load_file(path)) if "samples" in _keys(path) else {}


def _samples(part: Mapping[str, Tensor]) -> dict[int, Image.Image]:
    pictures = zip(part["rows"].tolist(), part.get("samples", ()), strict=False)
    return {row: Image.fromarray(pixels.numpy()) for row, pixels in pictures}


def _timed(parts: Sequence[Mapping[str, Tensor]], seconds: str = "", peak: str = "") -> dict[str, Any]:
    """What Evidence knows of time and memory, kept under these names."""
    if not seconds:
        return {}
    most = max(int(part[peak]) for part in parts)
    return {"seconds": torch.cat([part[seconds] for part in parts]), "peak": most}


def _check_one_size(sizes: Collection[tuple[int, int]], whose: str) -> None:
    """DataError where pictures, cropped and resized as the set says, are of several (height, width)."""
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:4])
        raise DataError(
            f"{whose}: the pictures have {len(sizes)} different sizes "
            f"({shown}{', ...' if len(sizes) > 4 else ''})",
            hint="Make them one size; for the set folder:DIR, --resize N (pixels) crops and resizes all.",
        )


def shard_path(folder: Path, rows: range) -> Path:
    """The file of a shard."""
    return folder / f"rows-{rows.start:06d}-{rows.stop:06d}.safetensors"


def _ranges(count: int, shard: int) -> list[range]:
    return [range(start, min(start + shard, count)) for start in range(0, count, shard)]


def _keys(path: Path) -> set[str]:
    """The tensors in a shard; none where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        return set()


def _shard(
    subject: Subject, number: int, rows: range, wanted: Wanted, kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the shard lacks, of pictures that were kept, or that are drawn or read now."""
    if "pixels" in kept and wanted.save_to is None and set(wanted.times) <= set(kept):
        shots, found = _kept_shots(kept), dict[str, Tensor]()
    else:
        shots, found = _new_shots(subject, rows, wanted)
    images = [shot.image for shot in shots]
    for network in wanted.networks:
        if network.key not in kept:
            found[network.key] = _features(network, images)
    if wanted.pixels:
        found["pixels"] = _stack(images)
    if wanted.target is not None:
        theirs = load_file(shard_path(wanted.target, rows))
        found[wanted.psnr] = _psnr(
            images, shots, dict(zip(theirs["rows"].tolist(), theirs["pixels"], strict=True))
        )
    if number == 0 and wanted.samples:
        first = [image for image, shot in zip(images, shots, strict=True) if shot.row < SAMPLES]
        found["samples"] = _stack([_thumb(image) for image in first])
    return found


def _kept_shots(kept: Mapping[str, Tensor]) -> list[Shot]:
    return [
        Shot(row, Image.fromarray(pixels.numpy()))
        for row, pixels in zip(kept["rows"].tolist(), kept["pixels"], strict=True)
    ]


def _new_shots(subject: Subject, rows: range, wanted: Wanted) -> tuple[list[Shot], dict[str, Tensor]]:
    """(the rows' pictures, cropped and resized; what is known of their making)."""
    reset_peak()
    shots = list(subject.shots(rows))
    cost = (torch.tensor([shot.seconds for shot in shots]), torch.tensor(peak_bytes()))
    if wanted.save_to is not None:
        for shot in shots:
            save_png(shot.image, wanted.png(shot.row))
    shots = [replace(shot, image=frame(shot.image, wanted.side)) for shot in shots]
    _check_one_size({(shot.image.height, shot.image.width) for shot in shots}, subject.label)
    return shots, {
        "rows": torch.tensor([shot.row for shot in shots], dtype=torch.int64),
        **dict(zip(wanted.times, cost, strict=False)),
        "size": torch.tensor([shot.image.size[::-1] for shot in shots], dtype=torch.int64).view(-1, 2),
    }


def _features(network: Network, images: Sequence[Image.Image], batch: int = 32) -> Tensor:
    """[N, D], also for N = 0."""
    parts = [network.of(images[i : i + batch]) for i in range(0, len(images), batch)]
    return torch.cat(parts) if parts else torch.empty(0, 0)


def _psnr(images: Sequence[Image.Image], shots: Sequence[Shot], target: Mapping[int, Tensor]) -> Tensor:
    """Of each picture to the teacher's of the same row [N], dB; DataError where their sizes differ."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if not images:
        return torch.empty(0)
    ours = _stack(images)
    theirs = torch.stack([target[shot.row] for shot in shots])
    if ours.shape != theirs.shape:
        raise DataError(
            f"the pictures are {ours.shape[2]} x {ours.shape[1]}, the teacher's {theirs.shape[2]} x "
            f"{theirs.shape[1]}",
            hint="Leave out the metric teacher, or compare pictures of one size.",
        )
    value: Tensor = peak_signal_noise_ratio(
        ours.float(), theirs.float(), data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    return value.clamp(max=BEST_PSNR)


def _stack(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as bytes [N, H, W, 3]."""
    return torch.from_numpy(np.stack([np.array(image) for image in images])) if images else torch.empty(0)


def _thumb(image: Image.Image) -> Image.Image:
    """At most THUMB pixels wide and high."""
    small = image.copy()
    small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    return small
