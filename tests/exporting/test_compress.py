"""Compression: the nearest update of a rank, and nothing lost where the rank is enough."""

import pytest
import torch

from tdd_cli.exporting.compress import compress, nearest

SHAPES = {"linear": ((8, 20), (30, 8)), "conv": ((8, 5, 3, 3), (16, 8, 1, 1)), "narrow": ((8, 6), (4, 8))}


def halves(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    down, up = SHAPES[kind]
    return torch.randn(down, generator=generator), torch.randn(up, generator=generator)


def update(down, up):
    return up.flatten(1).double() @ down.flatten(1).double()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_it_is_the_truncated_svd_of_the_whole_update(kind, rank):
    down, up = halves(kind)
    u, s, v = torch.linalg.svd(update(down, up), full_matrices=False)
    new_down, new_up, values = nearest(down, up, rank)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close(update(new_down, new_up), best, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values, s[: len(values)])
    assert new_down.shape[1:] == down.shape[1:]
    assert new_up.shape[0] == up.shape[0]


def test_the_error_is_that_of_all_modules_together():
    state = {}
    for seed, kind in enumerate(SHAPES):
        down, up = halves(kind, seed)
        state |= {f"{kind}.lora_A.weight": down, f"{kind}.lora_B.weight": up * (seed + 1)}
    small, error = compress(state, 2)

    def of(values):
        pairs = [(values[f"{kind}.lora_A.weight"], values[f"{kind}.lora_B.weight"]) for kind in SHAPES]
        return torch.cat([update(*pair).flatten() for pair in pairs])

    assert error == pytest.approx(((of(state) - of(small)).norm() / of(state).norm()).item(), rel=1e-4)
    assert small["linear.lora_A.weight"].shape == (2, 20)
    assert compress(small, 2)[1] == pytest.approx(0, abs=1e-6)


def test_an_adapter_that_does_nothing_stays_so():
    down, up = halves("linear")
    small, error = compress({"x.lora_A.weight": down, "x.lora_B.weight": torch.zeros_like(up)}, 2)
    assert error == 0
    assert not small["x.lora_B.weight"].any()
