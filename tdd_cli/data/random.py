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
    FILES = 4  # the order of a source's files in an epoch
    SUBSTITUTE = 5  # what stands in for a row whose sample is left out
    TEACHER = 6  # the noise from which the teacher draws a latent
    CAPTION = 7  # the one caption of a cached picture
    PIECES = 8  # the order of the pieces of a few files


def seed_at(seed: int, use: Use, *place: int) -> int:
    """A 63-bit seed for a place (a number or several) of one stream of the run."""
    state = np.random.SeedSequence([seed, int(use), *place]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator_at(seed: int, use: Use, *place: int) -> Generator:
    """A fresh CPU generator for a place of one stream of the run."""
    return Generator("cpu").manual_seed(seed_at(seed, use, *place))


def permutation(count: int, seed: int, use: Use, *place: int) -> Tensor:
    """An order [count] of `count` things."""
    return torch.randperm(count, generator=generator_at(seed, use, *place))
