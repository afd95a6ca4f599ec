"""A student of the miniature beside its teacher, on the fixed prompts and seeds of the evaluation.

    python -m tdd_cli.bundled.emoji.compare                      # the bundled student
    python -m tdd_cli.bundled.emoji.compare runs/emoji-4to8-...  # one of your own
    python -m tdd_cli.bundled.emoji.compare --steps 4 6 8 --guidance 1 1.5 2

For each way of drawing: network calls a picture, how often the right thing is the nearest and among the five
nearest (retrieval.py), and how far the picture is from the guided teacher's at 50 steps from the same noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tdd_cli.bundled.emoji import GUIDANCE, STUDENT, captions, dataset, retrieval
from tdd_cli.families import load_family
from tdd_cli.families.base import Family
from tdd_cli.families.lora import adapter_off
from tdd_cli.generate import Sampling, draw
from tdd_cli.inference import Inference
from tdd_cli.pictures import grid, to_images
from tdd_cli.student import load_with_teacher, whole

BATCH = 64
SLOW = 50  # steps of the teacher


class Row(NamedTuple):
    """One way of drawing, and how it did."""

    label: str
    calls: int
    top1: float
    top5: float
    distance: float  # root mean square over pixels in [-1, 1], mean over pictures
    images: Tensor  # [N, 3, 64, 64]


def compare(
    family: Family,
    inference: Inference,
    pairs: list[tuple[str, int]],
    *,
    guidance: float,
    settings: list[Sampling],
    plain: Family | None = None,
) -> Iterator[Row]:
    """Rows for the guided teacher at 50 steps and at the student's fewest, then for each of `settings`.

    plain  the base model, where the teacher is it with a style: what the distance is without one
    """
    among = retrieval.gallery(dataset.load())
    names = [name for name, _ in pairs]
    own = Sampling.of(inference)
    slow = Sampling(steps=SLOW, guidance=guidance)

    def measured(label: str, sampling: Sampling, by: Family = family) -> Row:
        images = draw_all(by, pairs, sampling)
        top1, top5 = retrieval.score(images, names, among)
        return Row(label, sampling.calls, top1, top5, distance(images, target), images)

    with adapter_off(family.net):
        target = draw_all(family, pairs, slow)
        yield measured(f"teacher, {SLOW} steps, guidance {guidance:g}", slow)
        yield measured(f"teacher, {own.k_min} steps, guidance {guidance:g}", replace(slow, steps=own.k_min))
    if plain is not None:
        yield measured(f"base model, {SLOW} steps, guidance {guidance:g}", slow, plain)
    for sampling in settings:
        yield measured(f"student, {sampling.steps} steps, guidance {sampling.guidance:g}", sampling)


def draw_all(family: Family, pairs: list[tuple[str, int]], sampling: Sampling) -> Tensor:
    """A picture for every (name, seed): [N, 3, 64, 64] in [-1, 1]."""
    parts = []
    for start in range(0, len(pairs), BATCH):
        names, seeds = zip(*pairs[start : start + BATCH], strict=True)
        parts.append(draw(family, [captions.prompt(name) for name in names], seeds, sampling))
    return torch.cat(parts)


def distance(images: Tensor, target: Tensor) -> float:
    """Root mean square difference of pixels [N, 3, H, W], mean over the pictures."""
    return (images - target).square().mean((1, 2, 3)).sqrt().mean().item()


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| drawn by | network calls | nearest | among 5 | distance to the teacher |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(f"| {row.label} | {row.calls} | {row.top1:.1%} | {row.top5:.1%} | {row.distance:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, nargs="?", default=STUDENT, help="a run folder (default: the bundled one)"
    )
    parser.add_argument("--steps", type=int, nargs="+", help="default: the student's fewest and most")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--teacher-guidance", type=float, default=GUIDANCE)
    parser.add_argument("--count", type=int, help="only the first so many prompts")
    parser.add_argument("--sheet", type=Path, help="write pictures of the first prompts here")
    args = parser.parse_args()
    inference = Inference.load(args.run / "inference.json")
    family, _ = load_with_teacher(whole(inference, args.run / "adapter.safetensors"), "cpu")
    plain = load_family(inference.family, inference.model) if inference.styles else None
    own = Sampling.of(inference)
    steps = args.steps or sorted({own.k_min, own.k_max})
    settings = [replace(own, steps=k, guidance=scale) for k in steps for scale in args.guidance]
    pairs = dataset.evaluation_split()[: args.count]
    guidance = args.teacher_guidance
    rows = list(compare(family, inference, pairs, guidance=guidance, settings=settings, plain=plain))
    print(table(rows))
    if args.sheet:
        shown = pairs[:: max(1, len(pairs) // 12)][:12]
        columns = [pairs.index(pair) for pair in shown]
        pictures = [to_images(row.images[columns]) for row in rows]
        grid(pictures, [row.label for row in rows], [name for name, _ in shown], cell=96).save(args.sheet)


if __name__ == "__main__":
    main()
