"""x0 clipping by hand."""

import pytest
import torch

from tdd_cli.core.clip import dynamic_threshold


def test_equal_limits_cut_at_a_fixed_limit():
    x0 = torch.tensor([[-3.0, -0.5, 0.2, 9.0]])
    assert dynamic_threshold(x0).tolist() == [pytest.approx([-1, -0.5, 0.2, 1])]
    assert dynamic_threshold(x0, low=2.0, high=2.0).tolist() == [pytest.approx([-2, -0.5, 0.2, 2])]


def test_the_limit_is_the_samples_own_quantile_between_low_and_high():
    x0 = torch.stack(
        [torch.linspace(0, 1.5, 1001), torch.linspace(0, 100, 1001), torch.linspace(0, 0.1, 1001)]
    )
    out = dynamic_threshold(x0, ratio=0.8, low=1.0, high=4.0)
    assert out[0, 500].item() == pytest.approx(0.75 / 1.2, rel=1e-4)  # limit 1.2, scaled back to 1
    assert out[1].max().item() == pytest.approx(1.0)
    assert out[1, 30].item() == pytest.approx(3 / 4, rel=1e-4)  # limit held at 4
    assert torch.equal(out[2], x0[2])  # within the range: untouched


def test_samples_do_not_see_each_other():
    x0 = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5).reshape(
        4, 1, 1, 1
    )
    together = dynamic_threshold(x0, low=1.0, high=3.0)
    alone = torch.cat([dynamic_threshold(row[None], low=1.0, high=3.0) for row in x0])
    assert torch.equal(together, alone)


def test_half_precision_works():
    assert dynamic_threshold(torch.ones(2, 4, 8, 8, dtype=torch.bfloat16)).shape == (2, 4, 8, 8)
