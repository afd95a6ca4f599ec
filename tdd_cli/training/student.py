"""Student and teacher as two networks, whether the student is an adapter or a whole copy of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tdd_cli.core.guidance import Cond, Network
from tdd_cli.families.base import Family
from tdd_cli.families.lora import (
    adapter_off,
    add_lora,
    frozen_copy,
    lora_state,
    set_lora_state,
    unfreeze,
)
from tdd_cli.families.merged import Held, Merged, merged_weights, trainable_attention

State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """What is distilled into what."""

    student: Network
    teacher: Network
    parameters: list[nn.Parameter]  # what is trained
    state: Callable[[], State]  # the trained tensors by name, not copies
    load_state: Callable[[Mapping[str, Tensor]], None]
    frozen: nn.Module | None = None  # the teacher's network, where it is not the student's
    steady: Callable[[], AbstractContextManager[None]] = nullcontext  # while the parameters do not change


def lora_pair(
    family: Family, *, rank: int, alpha: float | None = None, merge: bool = False, seed: int = 0
) -> Pair:
    """An adapter on the family's network as student; the teacher is the same network with the adapter off.

    `merge` adds the adapter to the weights before each of the student's passes (families/merged.py).
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    parameters = add_lora(family.net, family.lora_targets, rank=rank, alpha=alpha, generator=generator)
    bare = family.net  # accelerate may wrap the network later: names are those of the bare one

    def teacher(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with adapter_off(family.net):
            return family.denoise(x_t, t, cond)

    weights = Held(lambda: merged_weights(family.net))

    def merged(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with trainable_attention(x_t):
            return family.denoise(x_t, t, cond, net=Merged(family.net, weights.get()))

    return Pair(
        merged if merge else family.denoise,
        teacher,
        parameters,
        lambda: lora_state(bare),
        lambda state: set_lora_state(bare, state),
        steady=weights.steady if merge else nullcontext,
    )


def full_pair(family: Family, *, frozen: torch.dtype = torch.float32) -> Pair:
    """All of the family's network as student, in float32; the teacher is a copy of it in `frozen`."""
    origin, bare = frozen_copy(family.net).to(frozen), family.net

    def teacher(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return family.denoise(x_t, t, cond, net=origin)

    def load_state(state: Mapping[str, Tensor]) -> None:
        bare.load_state_dict(state)

    parameters = unfreeze(bare)
    return Pair(family.denoise, teacher, parameters, lambda: dict(bare.state_dict()), load_state, origin)
