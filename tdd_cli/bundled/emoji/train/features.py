"""The feature network: which captions belong to which pictures? (Zhai et al. 2023, sigmoid loss)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tdd_cli.bundled.emoji import STYLES, captions, dataset, features
from tdd_cli.bundled.emoji.train import loop
from tdd_cli.bundled.emoji.train.text import style_named
from tdd_cli.files import replacing

THINGS = 64  # in a batch; of each, two pictures in different styles


def loss(similarity: Tensor, belongs: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy over all pairs of a picture and a caption [B, B], per picture."""
    logits = similarity * scale.exp() + bias
    return F.binary_cross_entropy_with_logits(logits, belongs.float(), reduction="sum") / len(logits)


def draw(names: list[list[int]], generator: torch.Generator) -> Tensor:
    """Rows of two pictures of each of THINGS things [2 THINGS]."""
    things = torch.randperm(len(names), generator=generator)[:THINGS].tolist()
    pairs = []
    for thing in things:
        rows = names[thing]
        pairs += [rows[i] for i in torch.randperm(len(rows), generator=generator)[:2].tolist()]
    return torch.tensor(pairs)


def train(folder: Path, *, steps: int, rate: float = 2e-3, out: Path = features.WEIGHTS) -> None:
    """Train for so many steps of 128 pictures; writes the network, in half precision, to `out`."""
    torch.manual_seed(0)
    emoji = dataset.load()
    index = {name: i for i, name in enumerate(dict.fromkeys(row.name for row in emoji.rows))}
    thing = torch.tensor([index[row.name] for row in emoji.rows])
    style = torch.tensor([list(STYLES).index(row.style) for row in emoji.rows])
    of_thing = [torch.nonzero(thing == i)[:, 0].tolist() for i in range(len(index))]
    net = features.Features()
    scale, bias = nn.Parameter(torch.tensor(10.0).log()), nn.Parameter(torch.tensor(-5.0))
    weights = [*net.parameters(), scale, bias]
    optimizer = torch.optim.AdamW([{"params": weights, "initial_lr": rate}], lr=rate, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        loop.set_rate(optimizer, loop.cosine(step / steps, step, warmup=100))
        rows = draw(of_thing, generator)
        texts = [captions.caption(emoji.rows[i], generator) for i in rows]
        named = torch.tensor([style_named(text) for text in texts])  # a style's number, or one beyond
        fits = (named[None] == style[rows][:, None]) | (named[None] == len(STYLES))
        belongs = (thing[rows][:, None] == thing[rows][None]) & fits
        pixels = dataset.displaced(emoji.images[rows], generator)
        value = loss(net.embed_images(pixels) @ net.embed_texts(texts).T, belongs, scale, bias)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if step % 100 == 0:
            loop.log(folder / "features.jsonl", step=step, loss=value.item())
    with replacing(out) as beside:
        save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, beside)
