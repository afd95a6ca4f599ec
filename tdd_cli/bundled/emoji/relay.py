"""By which of its jumps one student draws better than another: pictures begun by one, finished by the other.

    python -m tdd_cli.bundled.emoji.relay study/runs/eta-0.3-lr5e-4-s0 study/runs/ctm-s0 --eta 0.2

The first runs named are paired with as many that follow: A0 A1 A2 B0 B1 B2. FID of the set emoji, mean and
standard deviation over the pairs; both students of a pair take the same noise.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tdd_cli.core.guidance import Cond
from tdd_cli.evaluation.networks import Network, load_network
from tdd_cli.evaluation.protocol import Rules, choose
from tdd_cli.evaluation.reference import Real
from tdd_cli.evaluation.sets import open_set
from tdd_cli.evaluation.statistics import frechet
from tdd_cli.families.base import Family
from tdd_cli.generate import draw
from tdd_cli.pictures import to_images
from tdd_cli.sampling import Sampling
from tdd_cli.student import find, load

BATCH = 64


class Relay(NamedTuple):
    """Who takes how many of the first jumps, before the other takes the rest."""

    first: str
    jumps: int


def relays(steps: int) -> list[Relay]:
    """Every way to hand over once, in both directions; each alone first."""
    return [Relay("A", steps), Relay("B", steps)] + [
        Relay(first, jumps) for first in "AB" for jumps in range(1, steps)
    ]


def features(
    first: Family, then: Family, rules: Rules, sampling: Sampling, jumps: int, network: Network
) -> Tensor:
    """Features [N, D] of the pictures that `first` begins with some jumps and `then` finishes."""
    last = sampling.times()[jumps - 1]

    def both(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return (first if t[0] >= last else then).denoise(x_t, t, cond)

    parts = []
    for start in range(0, rules.n, BATCH):
        captions = rules.captions[start : start + BATCH]
        seeds = range(rules.seed + start, rules.seed + start + len(captions))
        pixels = draw(first, captions, seeds, sampling, size=first.default_size, network=both)
        parts.append(network.of(to_images(pixels)))
    return torch.cat(parts)


def measured(
    pairs: Sequence[tuple[str, str]], sampling: Sampling, n: int
) -> Iterator[tuple[Relay, list[float]]]:
    """(relay, FID of every pair)."""
    rules = choose(open_set("emoji"), n)
    network = load_network(rules.set.features["fid"])
    real = Real(rules.set, [network])
    for _ in real.fill():
        pass
    students = [dict(zip("AB", (load(*find(run)) for run in pair), strict=True)) for pair in pairs]
    for relay in relays(sampling.steps):
        values = []
        for pair in students:
            then = pair["B" if relay.first == "A" else "A"]
            ours = features(pair[relay.first], then, rules, sampling, relay.jumps, network)
            values.append(frechet(ours, real.moments(network)))
        yield relay, values


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="as many of A as of B, A's first")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--n", type=int, default=384, help="pictures")
    args = parser.parse_args()
    half, odd = divmod(len(args.runs), 2)
    if odd:
        parser.error("name as many runs of B as of A")
    own = Sampling.of(find(args.runs[0])[0])  # the grid its stops lie on
    sampling = replace(own, steps=args.steps, eta=args.eta, guidance=args.guidance)
    pairs = list(zip(args.runs[:half], args.runs[half:], strict=True))
    print("| first jumps | the rest | FID |\n|---|---|---|")
    for relay, values in measured(pairs, sampling, args.n):
        other = "B" if relay.first == "A" else "A"
        rest = f"{other}, {args.steps - relay.jumps}" if relay.jumps < args.steps else "-"
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        mean = statistics.fmean(values)
        print(f"| {relay.first}, {relay.jumps} | {rest} | {mean:.3f}{spread} |", flush=True)


if __name__ == "__main__":
    main()
