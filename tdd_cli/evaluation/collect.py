"""Pictures to evidence, shard by shard: resumable, shared out over processes, and no picture written.

A shard is a safetensors file with what is kept of some rows: their features under each network, the seconds
they took, their PSNR to the teacher's, and, where asked, the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdd_cli.errors import DataError
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
    pixels: bool = False  # keep the pictures: they are the teacher's
    target: Path | None = None  # shards of the teacher's pictures, for the PSNR
    save_to: Path | None = None  # a folder for the pictures as PNG files

    def keys(self, shard: int) -> set[str]:
        """The tensors a complete shard has."""
        more = {"pixels": self.pixels, "psnr": self.target is not None, "samples": shard == 0}
        return {"rows", "seconds", "size", "peak", *map(features_key, self.networks)} | {
            key for key, asked in more.items() if asked
        }


@dataclass(frozen=True)
class Evidence:
    """What is known of a subject's pictures; N are the readable ones."""

    rows: Tensor  # [N] their captions' numbers
    asked: int
    size: tuple[int, int]  # height, width in pixels
    features: Mapping[str, Tensor]  # by features_key [N, D]
    seconds: Tensor  # [N]
    peak: int  # bytes of memory, 0 where unknown
    psnr: Tensor | None = None  # [N] dB, to the teacher's
    samples: list[Image.Image] = field(default_factory=list)

    @property
    def unreadable(self) -> int:
        """How many pictures could not be read."""
        return self.asked - len(self.rows)

    def of(self, network: Network) -> Tensor:
        """Features [N, D] under a network."""
        return self.features[features_key(network)]


def features_key(network: Network) -> str:
    """The name of a network's features in a shard."""
    return f"features.{network.name}.{network.sha256[:12]}"


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
        if not wanted.keys(number) <= have:
            kept = load_file(path) if have else {}
            with replacing(path) as beside:
                save_file({**kept, **_shard(subject, number, rows, wanted, have)}, beside)
        done += len(rows)
        yield done


def gather(count: int, wanted: Wanted, folder: Path, *, shard: int = SHARD) -> Evidence:
    """The evidence of rows 0..count, whose shards are all there; DataError if no picture could be read."""
    parts = [load_file(shard_path(folder, rows)) for rows in _ranges(count, shard)]
    parts = [part for part in parts if len(part["rows"])]
    if not parts:
        raise DataError("none of the pictures can be read", hint="Are they pictures at all?")
    sizes = {tuple(size) for part in parts for size in part["size"].tolist()}
    if wanted.side is None and len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:4])
        raise DataError(
            f"the pictures have {len(sizes)} different sizes ({shown}, ...)",
            hint="Crop and resize all of them: --resize N (pixels).",
        )
    keys = [features_key(network) for network in wanted.networks]
    return Evidence(
        rows=torch.cat([part["rows"] for part in parts]),
        asked=count,
        size=next(iter(sorted(sizes))),
        features={key: torch.cat([part[key] for part in parts]) for key in keys},
        seconds=torch.cat([part["seconds"] for part in parts]),
        peak=max(int(part["peak"]) for part in parts),
        psnr=torch.cat([part["psnr"] for part in parts]) if wanted.target else None,
        samples=[Image.fromarray(pixels.numpy()) for pixels in parts[0].get("samples", ())],
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


def _shard(subject: Subject, number: int, rows: range, wanted: Wanted, have: set[str]) -> dict[str, Tensor]:
    """Draw or read the rows' pictures, and take from them what the shard does not have yet."""
    _reset_peak()
    shots = list(subject.shots(rows))
    peak = _peak()
    images = [frame(shot.image, wanted.side) for shot in shots]
    if wanted.save_to is not None:
        for shot in shots:
            save_png(shot.image, wanted.save_to / f"{shot.row:06d}.png")
    found = {
        "rows": torch.tensor([shot.row for shot in shots], dtype=torch.int64),
        "seconds": torch.tensor([shot.seconds for shot in shots]),
        "size": torch.tensor([image.size[::-1] for image in images], dtype=torch.int64).view(-1, 2),
        "peak": torch.tensor(peak),
    }
    for network in wanted.networks:
        if features_key(network) not in have:
            found[features_key(network)] = _features(network, images)
    if wanted.pixels:
        found["pixels"] = _stack(images, shots)
    if wanted.target is not None:
        theirs = load_file(shard_path(wanted.target, rows))
        found["psnr"] = _psnr(
            images, shots, dict(zip(theirs["rows"].tolist(), theirs["pixels"], strict=True))
        )
    if number == 0:
        found["samples"] = _stack([_thumb(image) for image in images[:SAMPLES]], shots[:SAMPLES])
    return found


def _features(network: Network, images: Sequence[Image.Image], batch: int = 32) -> Tensor:
    """[N, D], also for N = 0."""
    parts = [network.of(images[i : i + batch]) for i in range(0, len(images), batch)]
    return torch.cat(parts) if parts else torch.empty(0, 0)


def _psnr(images: Sequence[Image.Image], shots: Sequence[Shot], target: Mapping[int, Tensor]) -> Tensor:
    """Of each picture to the teacher's of the same row [N], dB; DataError where their sizes differ."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if not images:
        return torch.empty(0)
    ours = _stack(images, shots)
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


def _stack(images: Sequence[Image.Image], shots: Sequence[Shot]) -> Tensor:
    """Pictures of one size as bytes [N, H, W, 3]; DataError where they are of several."""
    if len({image.size for image in images}) > 1:
        first, other = images[0].size, next(image.size for image in images if image.size != images[0].size)
        raise DataError(
            f"the pictures have different sizes ({first[0]} x {first[1]}, {other[0]} x {other[1]}, ...)",
            hint="Crop and resize all of them: --resize N (pixels).",
        )
    return torch.from_numpy(np.stack([np.array(image) for image in images])) if images else torch.empty(0)


def _thumb(image: Image.Image) -> Image.Image:
    """At most THUMB pixels wide and high."""
    small = image.copy()
    small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    return small


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> int:
    """Bytes: of the GPU since the last reset, else of the whole process so far; 0 where that is unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
