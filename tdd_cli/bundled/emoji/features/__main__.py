"""What the feature network says of real pictures: how near they are to themselves and to their captions.

python -m tdd_cli.bundled.emoji.features
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tdd_cli.bundled.emoji import captions, dataset
from tdd_cli.evaluation.networks import Network, load_network
from tdd_cli.evaluation.statistics import frechet, mean_kernel, moments, polynomial_mmd
from tdd_cli.pictures import to_images

N = 1000  # pictures on the measured side, as in the emoji set


def main() -> None:
    """Measure, print."""
    network = load_network("emoji")
    assert network.embed
    found = dataset.load()
    real = _features(network, found, seed=0)
    rows = list(range(0, len(found.rows), len(found.rows) // N))[:N]
    again = _features(network, found, seed=1)[rows]
    texts = [captions.caption(found.rows[i], Generator().manual_seed(i)) for i in rows]
    kid, _ = polynomial_mmd(again, real, mean_kernel(real))
    true = (network.embed(again) * network.texts(texts)).sum(1).mean()
    shuffled = (network.embed(again) * network.texts(texts).roll(N // 2, 0)).sum(1).mean()
    fid = frechet(again, moments(real))
    print(f"{N} real pictures, displaced anew, against all: FID {fid:.3f}, KID x1000 {1000 * kid:.3f}")
    print(f"CLIP with their captions {100 * true:.2f}, with others' {100 * shuffled:.2f}")


def _features(network: Network, found: dataset.Emoji, *, seed: int) -> Tensor:
    """Of all pictures, displaced by a seed [N, D]."""
    pixels = dataset.displaced(found.images, Generator().manual_seed(seed))
    return torch.cat([network.of(to_images(part)) for part in pixels.split(64)])


if __name__ == "__main__":
    main()
