"""Distances between clouds of feature vectors, in float64, and confidence by resampling; torch only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

RESAMPLES = 1000


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] of vectors, float64."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features [N, D]."""
    x = features.double()
    mean = x.mean(0)
    x = x - mean
    return Moments(mean, x.T @ x / (len(x) - 1))


def frechet(ours: Tensor, theirs: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of [N, D] and the other's moments (Heusel et al. 2017).

    With C1 = F'F, tr (C1 C2)^1/2 is the sum of the roots of the eigenvalues of F C2 F': a symmetric problem,
    exact also where covariances are singular, and no larger than the number of pictures.
    """
    mean = ours.double().mean(0)
    factor = (ours.double() - mean) / (len(ours) - 1) ** 0.5  # [N, D]
    if len(factor) > factor.shape[1]:
        values, vectors = torch.linalg.eigh(factor.T @ factor)
        factor = (vectors * values.clamp(min=0).sqrt()).T  # [D, D]
    cross = torch.linalg.eigvalsh(factor @ theirs.cov @ factor.T).clamp(min=0).sqrt().sum()
    apart = (mean - theirs.mean).square().sum()
    return max(0.0, (apart + factor.square().sum() + theirs.cov.trace() - 2 * cross).item())


def polynomial_mmd(ours: Tensor, theirs: Tensor, within_theirs: float) -> tuple[float, Tensor]:
    """(unbiased MMD^2 of [N, D] and [M, D], each of ours' share in it [N]): KID (Binkowski et al. 2018).

    Over all pairs rather than over random subsets: the same quantity, without their noise. The shares are
    first-order influences 2 (mean k(x, ours) - mean k(x, theirs)); resampling their mean shows how far
    another N pictures might have moved the value. `within_theirs` is `mean_kernel(theirs)`.
    """
    among = (_kernel_sums(ours, ours) - _kernel_diagonal(ours)) / (len(ours) - 1)
    across = _kernel_sums(ours, theirs) / len(theirs)
    value = among.mean().item() + within_theirs - 2 * across.mean().item()
    return value, 2 * (among - across)


def mean_kernel(features: Tensor) -> float:
    """Mean polynomial kernel between different vectors of [N, D]."""
    sums = _kernel_sums(features, features) - _kernel_diagonal(features)
    return sums.mean().item() / (len(features) - 1)


def _kernel_sums(x: Tensor, y: Tensor, block: int = 1024) -> Tensor:
    """Sum over y of (x . y / D + 1)^3 for each of x [N], float64."""
    y = y.double()
    sums = [(part.double() @ y.T / y.shape[1] + 1).pow(3).sum(1) for part in x.split(block)]
    return torch.cat(sums)


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.double().square().sum(1) / x.shape[1] + 1).pow(3)


def gaussian_mmd(ours: Tensor, theirs: Tensor, *, sigma: float = 10.0, block: int = 1024) -> float:
    """1000 MMD^2 of unit vectors [N, D], [M, D] under a Gaussian kernel: CMMD (Jayasumana et al. 2024)."""

    def kernel(x: Tensor, y: Tensor) -> float:
        total = 0.0
        for part in x.split(block):
            squares = (part @ y.T).mul(-2).add(part.square().sum(1)[:, None]).add(y.square().sum(1))
            total += squares.clamp(min=0).div(-2 * sigma**2).exp().sum().item()
        return total / (len(x) * len(y))

    a, b = ours.double(), theirs.double()
    return 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


def inception_score(probabilities: Tensor, splits: int = 10) -> Tensor:
    """exp E KL(p(y|x) || p(y)) of each of `splits` equal parts of [N, K], in their order [splits]."""
    scores = []
    for part in probabilities.double().tensor_split(splits):
        information = torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()
        scores.append(information.exp())
    return torch.stack(scores)


def interval_of_mean(values: Tensor, generator: Generator) -> tuple[float, float]:
    """95 % interval of the mean of values [N]: percentiles of the means of resamples."""
    x = values.double()
    means = torch.stack([x[rows].mean() for rows in _resamples(len(x), generator)])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _resamples(n: int, generator: Generator) -> Iterator[Tensor]:
    for _ in range(RESAMPLES):
        yield torch.randint(n, (n,), generator=generator)
