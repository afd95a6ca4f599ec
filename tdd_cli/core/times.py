"""Which timesteps matter: the teacher's solver grid and the schedules that few-step samplers visit on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor


def solver_grid(points: int = 250, steps: int = 1000) -> Tensor:
    """The teacher's times, ascending [N]: 3, 7, ..., 999 for 250 points on 1000 training timesteps."""
    if not 1 <= points <= steps:
        raise ValueError(f"a solver grid has 1..{steps} points, got {points}")
    stride = steps // points
    return torch.arange(1, points + 1) * stride - 1


def draw_teacher_steps(
    times: Tensor, batch: int, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(t, t_prev), each [batch]: uniformly drawn solver steps t -> t_prev; the point below the first is 0."""
    index = torch.randint(len(times), (batch,), generator=generator, device=times.device)
    return times[index], below(times)[index]


def below(times: Tensor) -> Tensor:
    """Where the teacher's step from each point of the grid ends [N]: the point before, 0 for the first."""
    return torch.cat([times.new_zeros(1), times[:-1]])


def equal(times: Tensor, k: int) -> Tensor:
    """The k-step schedule, descending [k]: every (N / k)-th point of the grid counted from the noisy end."""
    n = len(times)
    if not 1 <= k <= n:
        raise ValueError(f"a schedule on a grid of {n} points has 1..{n} steps, got {k}")
    return times.flip(0)[torch.arange(k, device=times.device) * n // k]


def stops(times: Tensor, k_min: int, k_max: int) -> Tensor:
    """The target set: 0 and all times that k_min..k_max-step schedules jump to, ascending [M]."""
    if not 1 <= k_min <= k_max <= len(times):
        raise ValueError(f"needs 1 <= k_min <= k_max <= {len(times)}, got k_min={k_min}, k_max={k_max}")
    visited = torch.cat([equal(times, k)[1:] for k in range(k_min, k_max + 1)])
    ends: Tensor = torch.unique(torch.cat([times.new_zeros(1), visited]))
    return ends


def early(times: Tensor, k: int, k_min: int, k_max: int) -> Tensor:
    """The non-equidistant k-step schedule, descending [k]: the extra steps go where the noise is.

    The k_min-step schedule (or its largest doubling that fits into k steps) with its first segments halved,
    each by the target nearest its middle, so that every time is one the student was trained to land on; a
    segment without a target inside is passed over. For 4..8 steps on 250 points, 5 steps are 999 875 751 499
    251.
    """
    if not k_min <= k <= k_max:
        raise ValueError(f"the early schedule needs {k_min}..{k_max} steps, got {k}")
    coarse = k_min * 2 ** ((k // k_min).bit_length() - 1)
    ends = [*equal(times, coarse).tolist(), 0]
    targets = stops(times, k_min, k_max).tolist()
    inside = [[t for t in targets if lower < t < upper] for upper, lower in pairwise(ends)]
    middles = [(upper + lower) / 2 for upper, lower in pairwise(ends)]
    halves = [min(t, key=lambda one: abs(one - m)) for t, m in zip(inside, middles, strict=True) if t]
    return times.new_tensor(sorted(ends[:-1] + halves[: k - coarse], reverse=True))


def explicit(given: Sequence[int], steps: int = 1000) -> Tensor:
    """A schedule of the caller's own, descending [K]; ValueError unless it descends within steps-1..0."""
    falling = all(a > b for a, b in pairwise(given))
    if not given or not falling or not 0 <= given[-1] <= given[0] < steps:
        raise ValueError(f"timesteps must descend within {steps - 1}..0, got {list(given)}")
    return torch.tensor(list(given))


def largest_gap(times: Tensor, k: int) -> int:
    """The longest jump of the k-step schedule, its last one to 0 included."""
    visited = torch.cat([equal(times, k), times.new_zeros(1)])
    return int((visited[:-1] - visited[1:]).max())
