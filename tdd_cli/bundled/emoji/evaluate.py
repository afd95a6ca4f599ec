"""The miniature's figures: how often a drawn picture is nearest to the thing it should show.

python -m tdd_cli.bundled.emoji.evaluate teacher --guidance 1 2 3 4 5 6
python -m tdd_cli.bundled.emoji.evaluate variety --guidance 1 2 4
python -m tdd_cli.bundled.emoji.evaluate ceiling
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from tdd_cli.bundled.emoji import GUIDANCE, TEACHER, captions, dataset, retrieval, sampling
from tdd_cli.bundled.emoji.compare import draw_all
from tdd_cli.bundled.emoji.model import Text
from tdd_cli.families import load_family
from tdd_cli.generate import Sampling
from tdd_cli.pictures import grid, to_images

SEEDS = 8  # pictures of one prompt whose variety is measured


@torch.no_grad()
def draw(
    unet: UNet2DConditionModel,
    text: Text,
    vae: AutoencoderKL,
    pairs: list[tuple[str, int]],  # name, seed
    *,
    steps: int,
    guidance: float,
    batch: int = 64,
) -> Tensor:
    """One picture for every pair, prompted "a <name>": [N, 3, 64, 64] in [-1, 1]."""
    drawn = []
    for start in range(0, len(pairs), batch):
        names, seeds = zip(*pairs[start : start + batch], strict=True)
        cond = text.encode(text.tokens([captions.prompt(name) for name in names]))
        noise = sampling.noise(list(seeds))
        drawn.append(sampling.ddim(unet, noise, cond, steps=steps, scale=guidance))
    return sampling.decode(vae, torch.cat(drawn))


def teacher(folder: Path, *, steps: int, guidances: list[float], sheet: Path | None) -> None:
    """Print the retrieval figures at every guidance; put the pictures of the last one on a sheet."""
    among = retrieval.gallery(dataset.load())
    family = load_family("sdxl", str(folder))
    pairs = dataset.evaluation_split()
    for guidance in guidances:
        start = time.monotonic()
        images = draw_all(family, pairs, Sampling(steps=steps, guidance=guidance))
        top1, top5 = retrieval.score(images, [name for name, _ in pairs], among)
        seconds = time.monotonic() - start
        print(
            f"guidance {guidance:g}, {steps} steps: nearest {top1:.1%}, among 5 {top5:.1%}, {seconds:.0f} s",
            flush=True,
        )
    if sheet:
        pictures = to_images(images)
        rows = [pictures[start : start + 16] for start in range(0, len(pictures), 16)]
        grid(rows, [""] * len(rows), cell=64).save(sheet)


@torch.no_grad()
def variety(folder: Path, *, guidances: list[float], sheet: Path | None) -> None:
    """How different the pictures of one prompt are, at every guidance and among the real ones.

    Root mean square of pixel differences between two of SEEDS pictures, and to how many of the thing's own
    styles they are nearest.
    """
    emoji = dataset.load()
    names = [name for name, _ in dataset.evaluation_split()[::2]]
    print("| | two pictures differ by | in 19 of 20 prompts by more than | styles |\n|---|---|---|---|")
    real = torch.stack([_real(emoji, name) for name in names])
    print(_variety_row("real pictures, displaced", real, emoji, names), flush=True)
    family = load_family("sdxl", str(folder))
    for guidance in guidances:
        pairs = [(name, seed) for name in names for seed in range(SEEDS)]
        drawn = draw_all(family, pairs, Sampling(steps=25, guidance=guidance))
        images = drawn.unflatten(0, (len(names), SEEDS))
        print(_variety_row(f"guidance {guidance:g}", images, emoji, names), flush=True)
    if sheet:
        rows = [to_images(some) for some in images[::8]]
        grid(rows, names[::8], [f"seed {seed}" for seed in range(SEEDS)], cell=64).save(sheet)


def _real(emoji: dataset.Emoji, name: str) -> Tensor:
    """Displaced pictures of a thing, one of each style in turn: [SEEDS, 3, 64, 64]."""
    rows = [i for i, row in enumerate(emoji.rows) if row.name == name]
    chosen = [rows[i % len(rows)] for i in range(SEEDS)]
    return dataset.displaced(emoji.images[chosen], torch.Generator().manual_seed(0))


def _variety_row(label: str, images: Tensor, emoji: dataset.Emoji, names: list[str]) -> str:
    """A line of the table for pictures [K, SEEDS, 3, 64, 64] of K things."""
    first, second = torch.triu_indices(SEEDS, SEEDS, 1)
    between = (images[:, first] - images[:, second]).square().mean((2, 3, 4)).sqrt().mean(1)  # [K]
    styles = [len(_styles(some, emoji, name)) for some, name in zip(images, names, strict=True)]
    least = between.quantile(0.05).item()
    return f"| {label} | {between.mean():.3f} | {least:.3f} | {sum(styles) / len(styles):.1f} |"


def _styles(images: Tensor, emoji: dataset.Emoji, name: str) -> set[str]:
    """The styles of the thing that pictures [N, 3, 64, 64] are nearest to, mirrored or not."""
    rows = [row for row in emoji.rows if row.name == name]
    own = emoji.images[[i for i, row in enumerate(emoji.rows) if row.name == name]]
    both = retrieval.features(torch.cat([own, own.flip(-1)]))
    nearest = torch.cdist(retrieval.features(images), both).argmin(1) % len(own)
    return {rows[int(i)].style for i in nearest}


@torch.no_grad()
def latents(folder: Path) -> None:
    """How far clean latents reach: the clipping bounds of the recipes' sample section."""
    family = load_family("sdxl", str(folder))
    x0 = torch.cat([family.encode_images(part) for part in dataset.load().images.split(64)])
    reach = x0.abs().flatten(1).quantile(0.995, dim=1)  # [N]
    low, middle, high = reach.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    print(f"latents: std {x0.std():.3f}; 99.5 % of a picture's |x0| lie within {reach.mean():.2f} (mean)")
    print(f"of the pictures, 5 % lie within {low:.2f}, half within {middle:.2f}, 95 % within {high:.2f}")


@torch.no_grad()
def ceiling(folder: Path) -> None:
    """What real pictures reach: displaced ones, and those that went through the autoencoder besides."""
    emoji = dataset.load()
    among = retrieval.gallery(emoji)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    rebuilt = torch.cat([vae(part).sample for part in emoji.images.split(64)]).clamp(-1, 1)
    psnr = -10 * (F.mse_loss(rebuilt, emoji.images) / 4).log10()
    print(f"reconstructions: PSNR {psnr:.2f} dB over {len(rebuilt)} pictures")
    generator = torch.Generator().manual_seed(0)
    displaced = dataset.displaced(emoji.images, generator)
    names = [row.name for row in emoji.rows]
    through_vae = torch.cat([vae(part).sample for part in displaced.split(64)]).clamp(-1, 1)
    for label, images in {"displaced": displaced, "displaced, rebuilt": through_vae}.items():
        top1, top5 = retrieval.score(images, names, among)
        print(f"{label}: nearest {top1:.1%}, among 5 {top5:.1%}")


def main() -> None:
    """Parse, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("teacher", "ceiling", "variety", "latents"))
    parser.add_argument("--folder", type=Path, default=TEACHER)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument("--sheet", type=Path, help="write the pictures here, as one")
    args = parser.parse_args()
    if args.what == "ceiling":
        ceiling(args.folder)
    elif args.what == "latents":
        latents(args.folder)
    elif args.what == "variety":
        variety(args.folder, guidances=args.guidance, sheet=args.sheet)
    else:
        teacher(args.folder, steps=args.steps, guidances=args.guidance, sheet=args.sheet)


if __name__ == "__main__":
    main()
