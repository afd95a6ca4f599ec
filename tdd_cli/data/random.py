"""Random numbers that depend on where they are used, and on nothing that happened before.

A training run draws the n-th row of its stream from (seed, n): so a resumed run needs no saved random state,
and any number of processes draws the same rows.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Generator, Tensor


class Use(IntEnum):
    """What a stream of random numbers is for; each is independent of the others."""

    ORDER = 0  # of the samples in an epoch
    SAMPLE = 1  # caption and mirroring of one row
    NOISE = 2  # of one row
    STEP = 3  # times, targets and dropped prompts of one optimizer step


def seed_at(seed: int, use: Use, index: int) -> int:
    """A 63-bit seed for place `index` of one stream of the run."""
    state = np.random.SeedSequence([seed, int(use), index]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator_at(seed: int, use: Use, index: int) -> Generator:
    """A fresh CPU generator for place `index` of one stream of the run."""
    return Generator("cpu").manual_seed(seed_at(seed, use, index))


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order [count] in which an epoch visits the samples."""
    return torch.randperm(count, generator=generator_at(seed, Use.ORDER, epoch))
