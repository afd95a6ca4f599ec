"""The miniature's figures: how often a drawn picture is nearest to the thing it should show.

python -m tdd_cli.bundled.emoji.evaluate teacher --guidance 1 2 3 4 5 6
python -m tdd_cli.bundled.emoji.evaluate ceiling
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tdd_cli.bundled.emoji import TEACHER, captions, dataset, retrieval, sampling
from tdd_cli.bundled.emoji.model import Text, load_text, new_scheduler


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
    scheduler = new_scheduler()
    drawn = []
    for start in range(0, len(pairs), batch):
        names, seeds = zip(*pairs[start : start + batch], strict=True)
        cond = text.encode(text.tokens([captions.prompt(name) for name in names]))
        noise = sampling.noise(list(seeds))
        drawn.append(sampling.ddim(unet, scheduler, noise, cond, steps=steps, guidance=guidance))
    return sampling.decode(vae, torch.cat(drawn))


def grid(images: Tensor, columns: int) -> Image.Image:
    """[N, 3, H, W] in [-1, 1] -> one picture, row by row."""
    rows = -(-len(images) // columns)
    padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=1.0)
    _, channels, height, width = images.shape
    sheet = padded.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels = ((sheet.reshape(rows * height, columns * width, channels) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.numpy())


def teacher(folder: Path, *, steps: int, guidances: list[float], sheet: Path | None) -> None:
    """Print the retrieval figures at every guidance; the pictures of the last go on a sheet, if asked for."""
    among = retrieval.gallery(dataset.load())
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    text = load_text(folder)
    pairs = dataset.evaluation_split()
    for guidance in guidances:
        start = time.monotonic()
        images = draw(unet, text, vae, pairs, steps=steps, guidance=guidance)
        top1, top5 = retrieval.score(images, [name for name, _ in pairs], among)
        seconds = time.monotonic() - start
        print(f"guidance {guidance:g}: nearest {top1:.1%}, among 5 {top5:.1%} ({seconds:.0f} s)", flush=True)
    if sheet:
        grid(images, 16).save(sheet)


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
    parser.add_argument("what", choices=("teacher", "ceiling"))
    parser.add_argument("--folder", type=Path, default=TEACHER)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--sheet", type=Path, help="write the pictures here, as one")
    args = parser.parse_args()
    if args.what == "ceiling":
        ceiling(args.folder)
    else:
        teacher(args.folder, steps=args.steps, guidances=args.guidance, sheet=args.sheet)


if __name__ == "__main__":
    main()
