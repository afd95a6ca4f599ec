"""Prompts and seeds in, pictures out: the same ones whatever batch they are drawn in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from tdd_cli.core.clip import dynamic_threshold
from tdd_cli.core.guidance import Network, guided
from tdd_cli.core.sampler import Clip, ImageNoise, sample
from tdd_cli.core.times import early, equal, solver_grid
from tdd_cli.errors import UsageError
from tdd_cli.families.base import Family, uncropped
from tdd_cli.pictures import to_images
from tdd_cli.run import Inference


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn: the first five are free, the rest follow from how the student was distilled."""

    steps: int = 4
    guidance: float = 1.0  # scale, 1 = off
    eta: float = 0.0  # share by which a step undershoots before noise is added back
    schedule: Literal["equal", "early"] = "equal"
    clip_x0: int = 0  # first steps whose x0 is clipped
    clip_low: float = 1.0  # core.clip.dynamic_threshold
    clip_high: float = 1.0
    grid: int = 250  # points of the teacher's solver grid
    k_min: int = 4  # steps the student was distilled for
    k_max: int = 8

    @property
    def calls(self) -> int:
        """Network calls a picture takes."""
        return self.steps * (1 if self.guidance == 1 else 2)

    def times(self) -> Tensor:
        """The timesteps visited, descending [steps]."""
        grid = solver_grid(self.grid)
        try:
            if self.schedule == "early":
                return early(grid, self.steps, self.k_min, self.k_max)
            return equal(grid, self.steps)
        except ValueError as error:
            raise UsageError(f"no {self.schedule} schedule of {self.steps} steps: {error}") from None

    @classmethod
    def of(cls, inference: Inference) -> Sampling:
        """The settings saved beside a student's weights."""
        same = inference.model_dump(include={field.name for field in fields(cls)})
        return cls(grid=inference.teacher_grid, **same)

    def clip(self) -> Clip:
        """The x0 clipping of the first steps."""
        return partial(dynamic_threshold, low=self.clip_low, high=self.clip_high)


@dataclass(frozen=True)
class Picture:
    """One picture and where it came from."""

    image: Image.Image
    prompt: str
    seed: int
    seconds: float  # its share of its batch's time


def generate(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 16,
) -> Iterator[Picture]:
    """Yields a picture for each prompt and seed, in their order; `size` is (height, width) in pixels."""
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        began = time.perf_counter()
        images = to_images(draw(family, prompts[rows], seeds[rows], sampling, size=size))
        seconds = (time.perf_counter() - began) / len(images)
        for image, prompt, seed in zip(images, prompts[rows], seeds[rows], strict=True):
            yield Picture(image, prompt, seed, seconds)


@torch.no_grad()
def draw(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    size: tuple[int, int] | None = None,
    network: Network | None = None,
) -> Tensor:
    """Pixels [B, 3, H, W] in [-1, 1] for B prompts and seeds; `network` replaces the family's own."""
    height, width = size or family.default_size
    device = family.schedule.alpha.device
    noise = ImageNoise(seeds)
    shape = family.latent_shape(height, width)
    x = noise.draw(shape, device)
    times = sampling.times().to(device)
    fresh = [noise.draw(shape, device) for _ in times[1:]] if sampling.eta > 0 else []
    sizes = uncropped(height, width, len(prompts))
    cond = family.encode_prompts(prompts, sizes)
    denoise = guided(network or family.denoise, cond, family.null(cond), sampling.guidance)
    steps = sample(
        family.schedule,
        denoise,
        x,
        times,
        eta=sampling.eta,
        noise=fresh,
        clip=sampling.clip(),
        clip_steps=sampling.clip_x0,
    )
    for x, _ in steps:  # noqa: B007
        pass
    return family.decode(x)
