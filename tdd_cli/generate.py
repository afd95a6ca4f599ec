"""Prompts and seeds in, pictures out: the same ones whatever batch they are drawn in.

from tdd_cli import generate

for picture in generate("runs/mine", ["a fox", "a red apple"], seeds=[0, 1], steps=4):
    picture.image.save(f"{picture.seed}.png")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from tdd_cli.core.edit import keep_outside
from tdd_cli.core.guidance import Cond, Denoiser, Network, conditioned, guided, post_tuned
from tdd_cli.core.sampler import Hold, ImageNoise, sample
from tdd_cli.errors import UsageError
from tdd_cli.families.base import Family, uncropped
from tdd_cli.pictures import to_images
from tdd_cli.sampling import Sampling
from tdd_cli.student import adapterless, find, load, load_with_teacher, whole

__all__ = ["AUTO_BATCH", "Edit", "Picture", "Sampling", "draw", "generate"]

AUTO_BATCH = 16  # pictures drawn together at first by batch="auto"


@dataclass(frozen=True)
class Picture:
    """One picture and where it came from."""

    image: Image.Image
    prompt: str
    seed: int
    seconds: float  # its share of its batch's time


@dataclass(frozen=True)
class Edit:
    """A given picture to redraw: all of it, or what a mask marks."""

    pixels: Tensor  # [1, 3, H, W] in [-1, 1]
    mask: Tensor | None = None  # [1, 1, H, W], 1 where the picture is redrawn


def generate(
    model: Family | str | Path,
    prompts: Sequence[str] | str,
    seeds: Sequence[int] | int = 0,
    sampling: Sampling | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch: int | Literal["auto"] = AUTO_BATCH,
    edit: Edit | None = None,
    network: Network | None = None,
    teacher: Network | None = None,
    each_step: Callable[[int], None] | None = None,
    **settings: Any,
) -> Iterator[Picture]:
    """Yields a picture for each prompt and seed, in their order.

    model     a run folder, an adapter with inference.json beside it, a diffusers folder, a hub id,
              "bundled:emoji" (a teacher) or "bundled" (the bundled student); or a Family that is loaded
    seeds     one for each prompt, or the first of consecutive ones
    sampling  None: the model's own settings; `settings` are fields of Sampling that differ (steps=6, eta=0.2)
    size      (height, width) in pixels; None: what the student was trained at, or the model's own
    batch     pictures drawn together; "auto" halves it where memory runs out
    edit      a picture to start from, and what of it to redraw
    network   replaces the family's own; `teacher` gives guidance mode post its null (None: the adapter off)
    each_step  is told, after every step, how many pictures took it

    Raises UsageError for settings that do not fit, MissingComponent for a model that cannot be reached.
    """
    if isinstance(model, str | Path):
        inference, weights = find(model)
        sampling, size = sampling or Sampling.of(inference), size or inference.size
        if settings.get("guidance_mode", sampling.guidance_mode) == "post":
            model, teacher = load_with_teacher(whole(inference, weights))
        else:
            model = load(inference, weights)  # the adapter multiplied in: quicker
    sampling = replace(sampling or Sampling(), **settings)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    seeds = range(seeds, seeds + len(prompts)) if isinstance(seeds, int) else seeds
    if len(seeds) != len(prompts):
        raise UsageError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    start, together = 0, AUTO_BATCH if batch == "auto" else batch
    while start < len(prompts):
        rows = slice(start, start + together)
        began = time.perf_counter()
        try:
            pixels = draw(
                model, prompts[rows], seeds[rows], sampling,
                size=size, network=network, teacher=teacher, edit=edit, each_step=each_step,
            )  # fmt: skip
            images = to_images(pixels)
        except (torch.OutOfMemoryError, MemoryError):
            together = len(prompts[rows]) // 2
            if batch != "auto" or together == 0:
                raise
            continue
        seconds = (time.perf_counter() - began) / len(images)
        for image, prompt, seed in zip(images, prompts[rows], seeds[rows], strict=True):
            yield Picture(image, prompt, seed, seconds)
        start += together


@torch.no_grad()
def draw(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    size: tuple[int, int] | None = None,
    network: Network | None = None,
    teacher: Network | None = None,
    edit: Edit | None = None,
    each_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Pixels [B, 3, H, W] in [-1, 1] for B prompts and seeds; see `generate` for the rest."""
    height, width = size or family.default_size
    device = family.schedule.alpha.device
    source = ImageNoise(seeds)
    shape = family.latent_shape(height, width)
    first = source.draw(shape, device)
    times = sampling.times().to(device)
    skipped = sampling.steps - len(times)  # by a strength below 1
    noise = [source.draw(shape, device) for _ in times[1:]] if sampling.eta > 0 else []
    x_t, hold = (first, None) if edit is None else _start(family, edit, first, times, sampling.strength)
    sizes = uncropped(height, width, len(prompts))
    steps = sample(
        family.schedule,
        _denoisers(family, prompts, sizes, sampling, network or family.denoise, teacher),
        x_t,
        times,
        eta=sampling.eta,
        noise=noise,
        clip=sampling.clip(),
        clip_steps=sampling.clip_x0 - skipped,
        hold=hold,
    )
    x0 = first
    for x0, _ in steps:  # noqa: B007
        if each_step is not None:
            each_step(len(prompts))
    pixels = family.decode(x0)
    if edit is not None and edit.mask is not None:  # what is kept is kept to the pixel
        pixels = torch.where(edit.mask.to(pixels) > 0, pixels, edit.pixels.to(pixels))
    return pixels


def _start(
    family: Family, edit: Edit, noise: Tensor, times: Tensor, strength: float
) -> tuple[Tensor, Hold | None]:
    """(x_t at the first time, what holds the kept part of the picture), as diffusers' pipelines begin."""
    x0 = family.encode_images(edit.pixels).to(noise).expand_as(noise)
    x_t = family.schedule.mix(x0, noise, times[0])
    if edit.mask is None:
        return x_t, None
    mask = torch.nn.functional.interpolate(edit.mask.to(noise), noise.shape[-2:])
    return noise if strength == 1 else x_t, keep_outside(family.schedule, x0, noise, mask, times)


def _denoisers(
    family: Family,
    prompts: Sequence[str],
    sizes: Tensor,
    sampling: Sampling,
    student: Network,
    teacher: Network | None,
) -> list[Denoiser]:
    """The network of every step: conditioned, and guided where that step's scale says so."""
    cond = _conditions(family, prompts, sizes)
    scales, trained = sampling.scales(), sampling.free_guidance
    if set(scales) == {trained}:
        return [conditioned(student, cond)] * len(scales)
    if sampling.negative:
        null = _conditions(family, [sampling.negative] * len(prompts), sizes)
    else:
        null = family.null(cond)

    def at(scale: float) -> Denoiser:
        if scale == trained:
            return conditioned(student, cond)
        if sampling.guidance_mode == "cfg":
            return guided(student, cond, null, scale)
        other = teacher or adapterless(family)
        return post_tuned(student, other, cond, null, scale=scale, trained_scale=trained)

    made = {scale: at(scale) for scale in set(scales)}
    return [made[scale] for scale in scales]


def _conditions(family: Family, prompts: Sequence[str], sizes: Tensor) -> Cond:
    """The conditions of the prompts, where the sampler's arithmetic is."""
    device = family.schedule.alpha.device
    return {key: value.to(device) for key, value in family.encode_prompts(prompts, sizes).items()}


class _Callable(ModuleType):
    """Lets `from tdd_cli import generate` be called, although that name is also this module's."""

    __call__ = staticmethod(generate)


sys.modules[__name__].__class__ = _Callable
