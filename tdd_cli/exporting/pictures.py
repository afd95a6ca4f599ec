"""The pictures on a model card."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from tdd_cli.families.base import Family
from tdd_cli.generate import Sampling, generate
from tdd_cli.inference import Inference
from tdd_cli.pictures import grid

SEEDS = (0, 1)
CELL = (128, 256)  # pixels a picture is shown at: at least, at most


def sheet(family: Family, inference: Inference, prompts: Sequence[str]) -> Image.Image:
    """A column for each prompt, a row for each seed."""
    sampling = Sampling.of(inference)
    drawn = generate(
        family,
        [prompt for _ in SEEDS for prompt in prompts],
        [seed for seed in SEEDS for _ in prompts],
        sampling,
        size=inference.size,
        batch=len(prompts),
    )
    images = [picture.image for picture in drawn]
    rows = [images[i : i + len(prompts)] for i in range(0, len(images), len(prompts))]
    cell = min(max(images[0].width, CELL[0]), CELL[1])
    return grid(rows, [f"seed {seed}" for seed in SEEDS], prompts, cell=cell)
