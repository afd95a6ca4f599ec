"""The miniature's feature network: a small image tower and a text tower, trained together by contrast.

It stands where Inception and CLIP stand for photographs, and knows nothing but these emoji: its figures
can be compared with each other only. `python -m tdd_cli.bundled.emoji.train features` makes the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).parent / "model.safetensors"
WIDTHS = (32, 64, 96, 128)  # channels at 32, 16, 8 and 4 pixels
BUCKETS = 4096  # of words and pieces of words
JOINT = 64  # dimensions of the space that pictures and captions share


class Stage(nn.Module):
    """Half the size, then one residual block."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, width, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, width, H/2, W/2]"""
        x = self.down(x)
        inner = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            inner = conv(F.silu(norm(inner)))
        return x + inner


class Features(nn.Module):
    """Pictures and captions of emoji as vectors."""

    width = WIDTHS[-2] + WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False))
        self.image = nn.Linear(self.width, JOINT)
        self.words = nn.EmbeddingBag(BUCKETS, JOINT, mode="mean")
        self.text = nn.Sequential(nn.Linear(JOINT, 2 * JOINT), nn.SiLU(), nn.Linear(2 * JOINT, JOINT))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 64, 64] in [-1, 1] -> features [B, 224]: the means of the last two stages."""
        maps = []
        for stage in self.stages:
            pixels = stage(pixels)
            maps.append(pixels)
        return torch.cat([F.silu(each).mean((2, 3)) for each in maps[-2:]], dim=1)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 64, 64] in [-1, 1] -> unit vectors [B, 64]."""
        return self.joint(self.pooled(pixels))

    def joint(self, pooled: Tensor) -> Tensor:
        """Features [B, 224] -> unit vectors [B, 64] that captions share."""
        return F.normalize(self.image(pooled), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """B captions -> unit vectors [B, 64]; the order of the words does not count."""
        pieces = [buckets(text) for text in texts]
        starts = torch.tensor([0, *(len(piece) for piece in pieces[:-1])]).cumsum(0)
        device = self.words.weight.device
        flat = torch.tensor([bucket for piece in pieces for bucket in piece], device=device)
        return F.normalize(self.text(self.words(flat, starts.to(device))), dim=1)


def buckets(text: str) -> list[int]:
    """The hashes of a caption's words and of their trigrams, so that no word is unknown."""
    words = re.findall(r"[^\W_]+", text.lower()) or [""]
    marked = [f"<{word}>" for word in words]
    pieces = marked + [word[i : i + 3] for word in marked for i in range(len(word) - 2)]
    return [crc32(piece.encode()) % BUCKETS for piece in pieces]


def load(path: Path = WEIGHTS) -> Features:
    """The trained network, frozen, float32 in use."""
    net = Features()
    net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return net.eval().requires_grad_(False)
