"""Where a student of the miniature errs: its jumps beside single steps of its teacher, on the teacher's path.

    python -m tdd_cli.bundled.emoji.paths            # the bundled student; or give a run folder

For each jump of the shortest schedule: the root mean square error in latents of the student's jump and of one
guided teacher step, both from the teacher's x_t; and of both samplers on their own ways so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tdd_cli.bundled.emoji import GUIDANCE, STUDENT, captions, dataset
from tdd_cli.core.guidance import Denoiser, conditioned, guided
from tdd_cli.core.sampler import ImageNoise
from tdd_cli.core.schedule import NoiseSchedule
from tdd_cli.core.times import equal, solver_grid
from tdd_cli.families import load_family
from tdd_cli.families.lora import adapter_off, load_lora
from tdd_cli.inference import Inference

FINE = 100  # steps of the teacher's path


class Jump(NamedTuple):
    """One jump t -> s; root mean square errors in latents, mean over the pictures."""

    t: int
    s: int
    student: float  # from the teacher's x_t
    teacher: float  # one step of it, from there too
    student_so_far: float  # each on its own way
    teacher_so_far: float


def jumps(
    schedule: NoiseSchedule, student: Denoiser, teacher: Denoiser, x: Tensor, stops: Tensor
) -> Iterator[Jump]:
    """The jumps between `stops` (descending, the last one the end), from noise x [B, ...] at the first."""
    path = ours = theirs = x
    for t, s in pairwise(stops):
        exact = walk(schedule, teacher, path, int(t), int(s))
        on_path = [step(schedule, one, path, t, s) for one in (student, teacher)]
        ours, theirs = step(schedule, student, ours, t, s), step(schedule, teacher, theirs, t, s)
        errors = [rms(x_s - exact) for x_s in (*on_path, ours, theirs)]
        yield Jump(int(t), int(s), *errors)
        path = exact


def step(schedule: NoiseSchedule, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """One jump t -> s; time 0 is the clean picture, as for samplers."""
    x0, eps = schedule.split(x, denoise(x, t.expand(len(x))), t)
    return x0 if s == 0 else schedule.mix(x0, eps, s)


def walk(schedule: NoiseSchedule, denoise: Denoiser, x: Tensor, t: int, s: int) -> Tensor:
    """From t to s in many small steps."""
    fine = [time for time in equal(solver_grid(), FINE).tolist() if s < time < t]
    for upper, lower in pairwise([t, *fine, s]):
        x = step(schedule, denoise, x, torch.tensor(upper), torch.tensor(lower))
    return x


def rms(error: Tensor) -> float:
    """Root mean square of each picture, mean over the pictures."""
    return error.square().flatten(1).mean(1).sqrt().mean().item()


@torch.no_grad()
def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=STUDENT)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--count", type=int, default=48, help="prompts")
    args = parser.parse_args()
    inference = Inference.load(args.run / "inference.json")
    family = load_family(inference.family, inference.model)
    load_lora(family.net, args.run / "adapter.safetensors")
    names, seeds = zip(*dataset.evaluation_split()[: args.count], strict=True)
    cond = family.encode_prompts([captions.prompt(name) for name in names])
    full = guided(family.denoise, cond, family.null(cond), args.guidance)

    def teacher(x_t: Tensor, t: Tensor) -> Tensor:
        with adapter_off(family.net):
            return full(x_t, t)

    noise = ImageNoise(seeds).draw(family.latent_shape(*family.default_size))
    stops = torch.cat([equal(solver_grid(), inference.k_min), torch.zeros(1, dtype=torch.long)])
    print("| jump | student | one teacher step | student so far | teacher so far |\n|---|---|---|---|---|")
    for jump in jumps(family.schedule, conditioned(family.denoise, cond), teacher, noise, stops):
        print(
            f"| {jump.t} to {jump.s} | " + " | ".join(f"{error:.3f}" for error in jump[2:]) + " |", flush=True
        )


if __name__ == "__main__":
    main()
