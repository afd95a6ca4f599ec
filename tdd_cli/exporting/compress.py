"""Adapters of a lower rank: for every module the nearest update that a smaller adapter can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from tdd_cli.families.lora_file import State, split_key


def compress(state: State, rank: int) -> tuple[State, float]:
    """(the adapter at `rank` or below, its relative error |dW - dW'| / |dW| over all modules).

    `state` has alpha / rank multiplied in; so has the result.
    """
    small: State = {}
    lost, whole = 0.0, 0.0
    for module in dict.fromkeys(split_key(key)[0] for key in state):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        small[a], small[b], values = nearest(state[a], state[b], rank)
        lost += values[rank:].square().sum().item()
        whole += values.square().sum().item()
    return small, (lost / whole) ** 0.5 if whole else 0.0


def nearest(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(down, up, all singular values) of the update of `rank` nearest to up @ down (Eckart and Young 1936).

    down [r, in, ...], up [out, r, ...]: a linear layer's halves, or a convolution's. The large product is
    never formed: with up = Q_b R_b and down^T = Q_a R_a only R_b R_a^T [r, r] is decomposed.
    """
    q_b, r_b = torch.linalg.qr(up.flatten(1).double())
    q_a, r_a = torch.linalg.qr(down.flatten(1).double().T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = values[:rank].sqrt()  # shared by both halves, so that neither is too small for 16 bits
    new_up = (q_b @ u[:, :rank]) * root  # [out, rank]
    new_down = root[:, None] * (v[:rank] @ q_a.T)  # [rank, in]
    return (
        new_down.reshape(-1, *down.shape[1:]).to(down.dtype),
        new_up.reshape(up.shape[0], -1, *up.shape[2:]).to(up.dtype),
        values,
    )
