"""A style LoRA for the miniature, as a user might bring one: sepia prints, which the teacher has never seen.

It stands in for the user's own in docs/distil-your-own.md.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tdd_cli.bundled.emoji import TEACHER, captions, dataset
from tdd_cli.bundled.emoji.model import load_text, new_scheduler
from tdd_cli.bundled.emoji.train import loop
from tdd_cli.bundled.emoji.train.unet import Nets, loss
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.files import write_atomic

FROM = "fluent-flat"  # the drawings that are printed in sepia
PICTURES = 64
COPIES = 4  # displaced, of each
BATCH = 32
INK = (0.0, -0.5, -0.85)  # a brown, red green blue in [-1, 1]
LUMA = (0.299, 0.587, 0.114)


def sepia(images: Tensor) -> Tensor:
    """Colours turn shades of one brown, white paper stays: [B, 3, H, W] in [-1, 1], the same shape."""
    light = (images.add(1) / 2 * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)  # [B, 1, H, W]
    return torch.lerp(torch.tensor(INK).view(3, 1, 1), torch.ones(3, 1, 1), light.clamp(0, 1))


def write_prompts(path: Path) -> None:
    """Write the prompt of every thing that the miniature knows, "a fox" and so on, one a line."""
    names = dict.fromkeys(row.name for row in dataset.load().rows)
    write_atomic(path, "".join(f"{captions.prompt(name)}\n" for name in names))


def train(folder: Path, *, steps: int, out: Path, rank: int = 8, rate: float = 2e-3) -> None:
    """Train for so many steps of 32 pictures; writes the adapter to `out`, and prompts.txt beside it."""
    emoji = dataset.load()
    rows = [i for i, row in enumerate(emoji.rows) if row.style == FROM]
    rows = rows[:: len(rows) // PICTURES][:PICTURES]
    generator = torch.Generator().manual_seed(0)
    family = load_family("sdxl", str(TEACHER))
    pictures = sepia(dataset.displaced(emoji.images[rows * COPIES], generator))
    latents = family.encode_images(pictures)  # [COPIES * PICTURES, 4, 16, 16]
    texts = [captions.prompt(emoji.rows[i].name) for i in rows]
    weights = add_lora(family.net, family.lora_targets, rank=rank)
    text = load_text(TEACHER)
    text.first.requires_grad_(False)
    text.second.requires_grad_(False)
    optimizer = torch.optim.AdamW([{"params": weights, "initial_lr": rate}], lr=rate, weight_decay=0.0)
    nets, alphas_cumprod = Nets(family.net, text), new_scheduler().alphas_cumprod
    for step in range(steps):
        loop.set_rate(optimizer, loop.cosine(step / steps, step, warmup=20))
        which = torch.randint(len(latents), (BATCH,), generator=generator)
        tokens = text.tokens([texts[i % len(texts)] for i in which])
        value = loss(nets, latents[which], tokens, alphas_cumprod, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            loop.log(folder / "style.jsonl", step=step, loss=value.item())
    save_lora(family.net, out, {})
    write_prompts(out.with_name("prompts.txt"))
