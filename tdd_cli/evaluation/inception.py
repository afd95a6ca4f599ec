"""Inception 2015-12-05, the network FID was defined with (Heusel et al. 2017), as a table of its blocks.

torchvision's inception_v3 is another network: other weights, and other pooling. This file defines the graph
itself, so that neither torchvision nor torch-fidelity is needed; the weights are the file that both
pytorch-fid and torch-fidelity use, checked by its SHA-256. tests/evaluation/test_inception.py compares it
with torch-fidelity's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.evaluation.cache import cache_folder
from tdd_cli.files import replacing
from tdd_cli.hashes import file_hash

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299  # pixels
CLASSES = 1008

Conv = tuple[int, int | tuple[int, int]] | tuple[int, int | tuple[int, int], int]
"""(width, kernel) or, without padding, (width, kernel, stride)."""

Chain = list[Conv | list[Conv]]
"""Convolutions one after the other; a list of them at its end stands side by side."""


def _a(pool: int) -> dict[str, Chain]:
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "avg": [(pool, 1)],
    }


def _c(width: int) -> dict[str, Chain]:
    wide, high = (1, 7), (7, 1)
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, wide), (192, high)],
        "branch7x7dbl": [(width, 1), (width, high), (width, wide), (width, high), (192, wide)],
        "avg": [(192, 1)],
    }


def _e(pool: str) -> dict[str, Chain]:
    fork: list[Conv] = [(384, (1, 3)), (384, (3, 1))]
    return {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), fork],
        "branch3x3dbl": [(448, 1), (384, 3), fork],
        pool: [(192, 1)],
    }


BLOCKS: dict[str, dict[str, Chain]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)], "max": []},
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": {
        "branch3x3": [(192, 1), (320, 3, 2)],
        "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
        "max": [],
    },
    "Mixed_7b": _e("avg"),
    "Mixed_7c": _e("same max"),  # a slip of 2015 that every FID has inherited
}
POOLS = {
    "avg": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "max": lambda x: F.max_pool2d(x, 3, stride=2),
    "same max": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
}


class Unit(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, before: int, conv: Conv) -> None:
        super().__init__()
        width, kernel = conv[:2]
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        stride, padding = (conv[2], (0, 0)) if len(conv) == 3 else (1, (high // 2, wide // 2))
        self.conv = nn.Conv2d(before, width, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, width, h, w]"""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side; modules are named as in the weights file."""

    def __init__(self, before: int, table: dict[str, Chain]) -> None:
        super().__init__()
        self.table: dict[str, list[list[str]]] = {}
        self.width = 0
        for branch, chain in table.items():
            width, self.table[branch] = before, []
            for i, step in enumerate(chain, 1):
                forks = step if isinstance(step, list) else [step]
                number = "" if len(chain) == 1 else f"_{i}"
                prefix = "branch_pool" if branch in POOLS else branch
                names = [f"{prefix}{number}{letter}" for letter in ("ab" if len(forks) > 1 else [""])]
                for name, conv in zip(names, forks, strict=True):
                    self.add_module(name, Unit(width, conv))
                width = sum(conv[0] for conv in forks)
                self.table[branch].append(names)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, self.width, h, w]"""
        found = []
        for branch, steps in self.table.items():
            y = POOLS[branch](x) if branch in POOLS else x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            found.append(y)
        return torch.cat(found, dim=1)


class Inception(nn.Module):
    """Pictures -> 2,048 features, and from those 1,008 class probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, (32, 3, 2))
        self.Conv2d_2a_3x3 = Unit(32, (32, 3, 1))
        self.Conv2d_2b_3x3 = Unit(32, (64, 3))
        self.Conv2d_3b_1x1 = Unit(64, (80, 1))
        self.Conv2d_4a_3x3 = Unit(80, (192, 3, 1))
        width = 192
        for name, table in BLOCKS.items():
            block = Block(width, table)
            self.add_module(name, block)
            width = block.width
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, 3, 299, 299] in 0..255 -> features [B, 2048]."""
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(POOLS["max"](x)))
        x = POOLS["max"](x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

    def probabilities(self, features: Tensor) -> Tensor:
        """Features [B, 2048] -> class probabilities [B, 1008], the bias left out as in IS."""
        return (features @ self.fc.weight.T).softmax(dim=1)


def prepare(image: Image.Image) -> Tensor:
    """A picture as pixels [3, 299, 299] in 0..255: Pillow's bicubic in float, channel by channel."""
    channels = [
        np.asarray(channel.convert("F").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for channel in image.convert("RGB").split()
    ]
    return torch.from_numpy(np.stack(channels))


def load(path: Path | None = None) -> Inception:
    """The network with the checked weights of `path`, or of the cache, downloaded once."""
    net = Inception()
    net.load_state_dict(read(path or weights_file()))
    return net.eval().requires_grad_(False)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file whose hash is right.

    torch's restricted reader, which makes tensors and nothing else, sees the file only after the hash
    has shown that it is the published one.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint=f"It is {NAME}, 96 MB: {URL}")
    found = file_hash(path)
    if found != SHA256:
        raise UsageError(
            f"{path} is not Inception 2015-12-05: its SHA-256 is {found[:16]}..., not {SHA256[:16]}...",
            hint=f"Figures of other weights are not FID. The file is {NAME}, 95,628,359 bytes: {URL}",
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def weights_file() -> Path:
    """The weights in the user's cache folder, downloaded if need be; MissingComponent if that fails."""
    path = cache_folder() / NAME
    if path.is_file():
        return path
    hint = f"Where there is a network, fetch {URL} (96 MB); then --inception FILE, or put it at {path}"
    try:
        with replacing(path) as beside:
            torch.hub.download_url_to_file(URL, str(beside), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        raise MissingComponent(
            f"the Inception weights are not at {path} and cannot be fetched ({error})", hint=hint
        ) from None
    return path
