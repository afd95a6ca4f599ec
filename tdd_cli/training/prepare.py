"""Fills a cache before training: pictures through the encoders, or latents the teacher makes of prompts."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tdd_cli.core.guidance import guided
from tdd_cli.core.sampler import ImageNoise, sample
from tdd_cli.core.times import equal, solver_grid
from tdd_cli.data.captions import CAPTIONS, Labels
from tdd_cli.data.pictures import Size, crop, nearest_shape
from tdd_cli.data.random import Use, generator_at, seed_at
from tdd_cli.data.rejects import Reject, tally
from tdd_cli.data.sources import Source, count
from tdd_cli.data.store import Entry, Store
from tdd_cli.data.stored import MIRRORED
from tdd_cli.errors import TddError
from tdd_cli.families.base import Family, uncropped

COND = "cond."  # before the name of a tensor: what the text encoders made of the caption
Make = Callable[[range], Iterator["Part"]]
"""Makes the entries of some samples, by number, a batch at a time."""


@dataclass
class Part:
    """What became of some samples."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        """How many samples there were."""
        return len(self.entries) + self.left_out.total()


def fill(store: Store, make: Make, *, process: int = 0, processes: int = 1) -> Iterator[int]:
    """Make the missing parts that fall to this process; yields how many samples each batch was made from.

    A part is kept once it is whole.
    """
    for part, numbers in store.missing():
        if part % processes == process:
            whole = Part()
            for batch in make(numbers):
                whole.entries += batch.entries
                whole.left_out.update(batch.left_out)
                yield batch.samples
            store.write(part, whole.entries, whole.left_out)


@torch.no_grad()
def encode_pictures(
    family: Family,
    source: Source,
    numbers: range,
    *,
    shapes: Sequence[Size],
    flip: bool,
    text: bool,
    dtype: torch.dtype,
    batch: int,
    workers: int = 0,
) -> Iterator[Part]:
    """The cache entries of some of a source's pictures, each cut to the shape nearest to its own, by batch.

    flip: its mirror image too; text: also what the text encoders make of one caption, drawn for good
    """
    rows = DataLoader(
        _Cut(source, numbers, list(shapes), flip),
        batch_size=None,
        num_workers=workers,
    )
    waiting: list[_Cropped] = []
    rejects: list[Reject] = []
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
            continue
        if waiting and (len(waiting) == batch or row.pixels.shape != waiting[0].pixels.shape):
            yield Part(_encoded(family, waiting, text=text, dtype=dtype), tally(rejects))
            waiting, rejects = [], []
        waiting.append(row)
    last = _encoded(family, waiting, text=text, dtype=dtype) if waiting else []
    yield Part(last, tally(rejects))


@torch.no_grad()
def draw_latents(
    family: Family,
    prompts: Sequence[str],
    numbers: range,
    *,
    per_prompt: int,
    size: Size,
    steps: int,
    guidance: float,
    seed: int,
    text: bool,
    dtype: torch.dtype,
    batch: int,
) -> Iterator[Part]:
    """The cache entries of latents that the teacher draws, by batch: number n is of prompt n // per_prompt.

    Each starts from noise of its own, a function of (seed, n): which of them are drawn together changes
    nothing but rounding.
    """
    for first in range(numbers.start, numbers.stop, batch):
        rows = range(first, min(first + batch, numbers.stop))
        texts = [prompts[n // per_prompt] for n in rows]
        sizes = uncropped(*size, len(rows))
        cond = family.encode_prompts(texts, sizes)
        noise = ImageNoise([seed_at(seed, Use.TEACHER, n) for n in rows])
        device = family.schedule.alpha.device
        x = noise.draw(family.latent_shape(*size), device)
        denoise = guided(family.denoise, cond, family.null(cond), guidance)
        *_, (_, made) = sample(family.schedule, denoise, x, equal(solver_grid(), steps).to(device))
        check_latents(made)
        kept, entries = _kept_cond(cond) if text else {}, []
        for i, (caption, x0) in enumerate(zip(texts, made.to("cpu", dtype), strict=True)):
            tensors = {"x0": x0.clone(), "sizes": sizes[i], **{name: kept[name][i] for name in kept}}
            entries.append(Entry(tensors, {"captions": [caption]}))
        yield Part(entries)


def check_latents(x0: Tensor) -> None:
    """TddError, with the remedy, where latents are not finite: a student of them would not be either."""
    if not torch.isfinite(x0).all():
        raise TddError(
            "the model makes latents that are not finite",
            hint="Its VAE (or, drawing from prompts, its network) overflows in 16 bits or is damaged: use "
            "the float32 weights, for SDXL's VAE madebyollin/sdxl-vae-fp16-fix, and precision bf16 or fp32.",
        )


@dataclass(frozen=True)
class _Cropped:
    """One picture, ready for the encoders."""

    pixels: Tensor  # [1 or 2, 3, H, W]: the picture, and its mirror image
    sizes: Tensor  # [1 or 2, 6]
    labels: Labels
    rule: str  # of CAPTIONS
    place: tuple[int, int]


class _Cut(Dataset["_Cropped | Reject"]):
    """Some samples of a source, by number, cut to the nearest of some shapes."""

    def __init__(self, source: Source, numbers: range, shapes: list[Size], flip: bool) -> None:
        self.source, self.numbers, self.shapes, self.flip = source, numbers, shapes, flip
        self.starts = [0, *accumulate(count(source, unit) for unit in range(source.units))]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> _Cropped | Reject:
        if i >= len(self.numbers):
            raise IndexError
        number = self.numbers[i]
        unit = bisect_right(self.starts, number) - 1
        place = (unit, number - self.starts[unit])
        try:
            found = self.source.read(*place)
        except Reject as reject:
            return reject
        size = nearest_shape(found.image, self.shapes)
        cuts = [
            crop(found.image, size, mirror=mirror) for mirror in ((False, True) if self.flip else (False,))
        ]
        pixels, sizes = (torch.stack(column) for column in zip(*cuts, strict=True))
        return _Cropped(pixels, sizes, found.labels, self.source.rule, place)


def _encoded(family: Family, rows: list[_Cropped], *, text: bool, dtype: torch.dtype) -> list[Entry]:
    """Some pictures of one shape through the encoders."""
    x0 = family.encode_images(torch.cat([row.pixels for row in rows])).to("cpu", dtype)
    check_latents(x0)
    each = x0.split([len(row.pixels) for row in rows])
    labels, kept = [row.labels for row in rows], {}
    if text:
        captions = [CAPTIONS[row.rule](row.labels, generator_at(0, Use.CAPTION, *row.place)) for row in rows]
        labels = [{"captions": [caption]} for caption in captions]
        kept = _kept_cond(family.encode_prompts(captions, torch.stack([row.sizes[0] for row in rows])))
    entries = []
    for i, row in enumerate(rows):
        tensors = {"x0": each[i][0].clone(), "sizes": row.sizes[0], **{name: kept[name][i] for name in kept}}
        if len(each[i]) > 1:
            tensors |= {f"{MIRRORED}x0": each[i][1].clone(), f"{MIRRORED}sizes": row.sizes[1]}
        entries.append(Entry(tensors, labels[i]))
    return entries


def _kept_cond(cond: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the text encoders made, on the CPU; the sizes are kept by themselves."""
    return {f"{COND}{name}": value.cpu().clone() for name, value in cond.items() if name != "sizes"}
