"""Does a drawn picture show its thing? Nearest neighbours among all things of the data set.

Distance: Euclidean between pictures pooled to 16 x 16, to the closest of a thing's styles, mirrored or not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tdd_cli.bundled.emoji.dataset import Emoji

POOL = 4  # pixels; enough to forget outlines and shading, too little to forget what is where


class Gallery(NamedTuple):
    """Every real picture, and its mirror image."""

    features: Tensor  # [M, 768]
    thing: Tensor  # [M], index into names
    names: list[str]  # [K]


class Score(NamedTuple):
    """Shares of the pictures whose thing is the nearest, and among the five nearest."""

    top1: float
    top5: float


def features(images: Tensor) -> Tensor:
    """[N, 3, 64, 64] in [-1, 1] -> [N, 768]."""
    return F.avg_pool2d(images, POOL).flatten(1)


def gallery(emoji: Emoji) -> Gallery:
    """The data set as a gallery; things in the order of their first row."""
    names = list(dict.fromkeys(row.name for row in emoji.rows))
    index = {name: i for i, name in enumerate(names)}
    thing = torch.tensor([index[row.name] for row in emoji.rows])
    both = torch.cat([features(emoji.images), features(emoji.images.flip(-1))])
    return Gallery(both, thing.repeat(2), names)


def distances(images: Tensor, among: Gallery) -> Tensor:
    """Distance of every picture to every thing: [N, K]."""
    to_pictures = torch.cdist(features(images), among.features, compute_mode="donot_use_mm_for_euclid_dist")
    to_things = to_pictures.new_full((len(images), len(among.names)), torch.inf)
    return to_things.scatter_reduce(1, among.thing.expand(len(images), -1), to_pictures, "amin")


def nearest(images: Tensor, among: Gallery, count: int = 5) -> list[list[str]]:
    """The names of the things nearest to every picture, nearest first."""
    order = distances(images, among).topk(count, largest=False).indices
    return [[among.names[int(i)] for i in line] for line in order]


def score(images: Tensor, names: list[str], among: Gallery) -> Score:
    """How often picture i, [N, 3, 64, 64] in [-1, 1], shows the thing names[i]."""
    found = nearest(images, among)
    top1 = sum(name == line[0] for name, line in zip(names, found, strict=True))
    top5 = sum(name in line for name, line in zip(names, found, strict=True))
    return Score(top1 / len(names), top5 / len(names))
