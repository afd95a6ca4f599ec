"""Target rules: where the student's jump from t lands, given where the teacher's step from t ends (t_prev).

Each rule takes the teacher's solver grid and keyword arguments that are its keys in a recipe, and returns a
Selector. The methods differ in nothing else:

    lcm   always 0                                          one target,  as far as it goes
    pcm   the next edge of a few fixed phases               one target
    ctm   anywhere below                                    many targets, any distance
    tdd   the stops of k_min..k_max-step samplers nearby    many targets, near, on the inference schedules
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from tdd_cli.core.times import largest_gap, stops

Selector = Callable[[Tensor, Generator | None], Tensor]
"""(t_prev [B], generator) -> s [B], 0 <= s <= t_prev, all integer times on one device; reads nothing back."""


def lcm(times: Tensor) -> Selector:
    """s = 0: consistency distillation (Luo et al. 2023)."""
    return lambda t_prev, generator: torch.zeros_like(t_prev)


def pcm(times: Tensor, *, phases: int = 4) -> Selector:
    """s = the largest phase edge <= t_prev, the edges being the `phases`-step schedule (Wang et al. 2024)."""
    edges = stops(times, phases, phases)

    def select(t_prev: Tensor, generator: Generator | None = None) -> Tensor:
        return edges[_highest(edges, t_prev)]

    return select


def ctm(times: Tensor) -> Selector:
    """s uniform over 0 and the grid points <= t_prev (Kim et al. 2023; TCD in latent space)."""
    ends = torch.cat([times.new_zeros(1), times])

    def select(t_prev: Tensor, generator: Generator | None = None) -> Tensor:
        highest = _highest(ends, t_prev)
        return ends[_draw(torch.zeros_like(highest), highest, generator)]

    return select


def tdd(
    times: Tensor,
    *,
    k_min: int = 4,
    k_max: int = 8,
    candidates: str = "window",
    reach: int | None = None,
    eta: float = 0.3,
) -> Selector:
    """s = floor((1 - u eta) tau), tau uniform over a few stops of k_min..k_max-step schedules below t_prev.

    candidates  window: all within `reach` of the highest one (the published code); None: the longest jump of
                    the k_min-step schedule; below that its own jumps would not be trained, and it is refused
                steps: the next one of each k-step schedule, one for each k (the paper's figure 2a)

    Lowering the target by up to `eta` prepares the student for samplers that undershoot and re-noise. TDD,
    arXiv 2409.01347, section 3.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is a share, 0..1, got {eta}")
    if candidates not in CANDIDATES:
        raise ValueError(f"candidates are one of {', '.join(CANDIDATES)}, got {candidates!r}")
    draw = (
        _in_window(times, k_min, k_max, reach) if candidates == "window" else _of_steps(times, k_min, k_max)
    )

    def select(t_prev: Tensor, generator: Generator | None = None) -> Tensor:
        tau = draw(t_prev, generator)
        u = torch.rand(tau.shape, generator=generator, device=tau.device)
        return torch.floor((1 - u * eta) * tau).long()

    return select


CANDIDATES = ("window", "steps")


def _in_window(times: Tensor, k_min: int, k_max: int, reach: int | None) -> Selector:
    """One of all stops in [highest - reach, highest], highest the largest stop <= t_prev."""
    targets = stops(times, k_min, k_max)
    needed = largest_gap(times, k_min)
    reach = needed if reach is None else reach
    if reach < needed:
        raise ValueError(f"reach must be at least {needed}, the longest jump of {k_min} steps, got {reach}")
    return lambda t_prev, generator: targets[_draw(*nearby(targets, t_prev, reach), generator)]


def _of_steps(times: Tensor, k_min: int, k_max: int) -> Selector:
    """The largest stop <= t_prev of the k-step schedule, k drawn uniformly: the jumps samplers make."""
    every = torch.arange(int(times[-1]) + 1, device=times.device)
    schedules = [stops(times, k, k) for k in range(k_min, k_max + 1)]
    below = torch.stack([edges[_highest(edges, every)] for edges in schedules])  # [k, t_prev] -> stop

    def draw(t_prev: Tensor, generator: Generator | None = None) -> Tensor:
        last = torch.full_like(t_prev, len(below) - 1)
        return below[_draw(torch.zeros_like(last), last, generator), t_prev]

    return draw


def nearby(targets: Tensor, t_prev: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """(first, last) index [B] of the targets [M] within `reach` below the highest one <= t_prev.

    The targets are sorted, so the candidates of a sample are one slice and two binary searches find it.
    """
    last = _highest(targets, t_prev)
    first = torch.searchsorted(targets, (targets[last] - reach).clamp(min=0))
    return first, last


def _highest(ends: Tensor, t_prev: Tensor) -> Tensor:
    """Index [B] of the largest of `ends` (ascending from 0) that is <= t_prev."""
    return torch.searchsorted(ends, t_prev, right=True) - 1


def _draw(first: Tensor, last: Tensor, generator: Generator | None) -> Tensor:
    """A uniform index [B] in first..last, both included."""
    u = torch.rand(first.shape, generator=generator, device=first.device)
    return torch.minimum(first + (u * (last - first + 1)).long(), last)


TARGETS: dict[str, Callable[..., Selector]] = {"lcm": lcm, "ctm": ctm, "pcm": pcm, "tdd": tdd}
