"""Distances between clouds of features, against scipy, torchmetrics and exact answers."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Generator
from torchmetrics.image.kid import poly_mmd

from tdd_cli.evaluation.statistics import (
    frechet,
    gaussian_mmd,
    inception_score,
    interval_of_mean,
    mean_kernel,
    moments,
    polynomial_mmd,
)


def cloud(n, d, *, seed, scale=1.0, shift=0.0):
    generator = Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return scale * torch.randn(n, d, generator=generator) @ mix + shift


def scipy_frechet(x, y):
    (m1, c1), (m2, c2) = ((a.double().numpy().mean(0), np.cov(a.double().numpy().T)) for a in (x, y))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    return ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


@pytest.mark.parametrize(
    ("n", "m"), [(400, 500), (64, 500), (33, 500)], ids=["more", "as many", "fewer than d"]
)
def test_frechet_is_scipys_formula(n, m):
    x, y = cloud(n, 64, seed=0), cloud(m, 64, seed=1, scale=1.3, shift=0.5)
    assert frechet(x, moments(y)) == pytest.approx(scipy_frechet(x, y), rel=1e-6)


def test_frechet_of_fewer_pictures_than_dimensions_on_both_sides():
    x, y = cloud(8, 20, seed=0), cloud(9, 20, seed=1)
    direct = (x.mean(0) - y.mean(0)).double().square().sum().item()
    assert frechet(x, moments(y)) > direct
    assert frechet(x, moments(x)) == pytest.approx(0, abs=1e-6)
    assert frechet(x, moments(y)) == pytest.approx(frechet(y, moments(x)), rel=1e-5)


def test_frechet_between_normal_clouds_of_one_dimension_is_known():
    x = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    y = torch.tensor([[4.0], [8.0]])  # mean 6, variance 8
    assert frechet(x, moments(y)) == pytest.approx(25 + 2 + 8 - 2 * 4)


def test_polynomial_mmd_is_torchmetrics():
    x, y = cloud(60, 16, seed=0).double(), cloud(60, 16, seed=1, shift=0.3).double()
    value, _ = polynomial_mmd(x, y, mean_kernel(y))
    assert value == pytest.approx(poly_mmd(y, x).item(), rel=1e-9)


def test_polynomial_mmd_is_unbiased():
    draws = [cloud(80, 4, seed=0)[rows] for rows in torch.arange(80).view(40, 2)]
    values = [polynomial_mmd(x, y, mean_kernel(y))[0] for x in draws[:20] for y in draws[20:]]
    spread = torch.tensor(values).std() / 20**0.5
    assert abs(torch.tensor(values).mean()) < 3 * spread


def test_the_shares_of_an_mmd_foretell_its_spread():
    y = cloud(400, 4, seed=0) * 0.5
    within = mean_kernel(y)
    many = [0.5 * cloud(4000, 4, seed=0)[400 + 60 * i :][:60] for i in range(50)]
    values = torch.tensor([polynomial_mmd(x, y, within)[0] for x in many])
    foretold = torch.stack([polynomial_mmd(x, y, within)[1].std() / 60**0.5 for x in many]).median()
    assert 0.5 < values.std() / foretold < 2


def test_gaussian_mmd_is_the_mean_of_kernels():
    x, y = cloud(5, 3, seed=0), cloud(7, 3, seed=1)

    def kernel(a, b):
        return torch.exp(-torch.cdist(a.double(), b.double()).square() / 200).mean().item()

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert gaussian_mmd(x, y, block=2) == pytest.approx(expected, rel=1e-9)
    assert gaussian_mmd(x, x) == pytest.approx(0, abs=1e-9)


def test_inception_score_of_certain_and_varied_classes_is_their_number():
    certain = torch.eye(4).repeat(10, 1)
    assert inception_score(certain, splits=10).tolist() == pytest.approx([4.0] * 10)
    assert inception_score(torch.full((20, 4), 0.25)).tolist() == pytest.approx([1.0] * 10)


def test_the_interval_of_a_mean_is_that_of_a_normal_one_and_repeats():
    x = torch.randn(400, generator=Generator().manual_seed(0))
    low, high = interval_of_mean(x, Generator().manual_seed(1))
    half = 1.96 * x.std().item() / 20
    assert (low, high) == pytest.approx((x.mean().item() - half, x.mean().item() + half), abs=0.03)
    assert interval_of_mean(x, Generator().manual_seed(1)) == (low, high)
