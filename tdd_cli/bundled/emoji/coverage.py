"""How low a recipe's targets lie beside where its samplers land: the share of them at or below each landing.

    python -m tdd_cli.bundled.emoji.coverage --recipe sdxl-4to8 --eta 0.2
    python -m tdd_cli.bundled.emoji.coverage --set target.eta=0.3 --set target.reach=999 --eta 0.2

A sampler that adds noise back lands below its next stop. Where few targets of training lie as low as that,
the student has hardly learned the jump that is asked of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tdd_cli.core.sampler import undershoot
from tdd_cli.core.targets import Selector
from tdd_cli.core.times import below, equal
from tdd_cli.recipe import load_recipe
from tdd_cli.training.assemble import make_method

DRAWS = 100_000


class Landing(NamedTuple):
    """One jump of a sampler, and how many of the targets trained from there lie as low."""

    t: int
    s: int
    share: float


def landings(times: Tensor, select: Selector, steps: int, eta: float) -> Iterator[Landing]:
    """The jumps of the equal schedule, the one to the picture left out."""
    before = below(times)
    for t, t_next in pairwise(equal(times, steps)):
        s = undershoot(t_next, eta)
        t_prev = before[torch.searchsorted(times, t)].repeat(DRAWS)
        targets = select(t_prev, Generator().manual_seed(0))
        yield Landing(int(t), int(s), (targets <= s).float().mean().item())


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="emoji-4to8")
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipe")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--eta", type=float, help="of the sampler; default: the recipe's")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    method = make_method(recipe)
    eta = recipe.sample.eta if args.eta is None else args.eta
    print("| steps | jump | targets at or below |\n|---|---|---|")
    for steps in args.steps:
        for t, s, share in landings(method.times, method.select, steps, eta):
            print(f"| {steps} | {t} to {s} | {share:.0%} |")


if __name__ == "__main__":
    main()
