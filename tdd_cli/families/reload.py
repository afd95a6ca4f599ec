"""The reload check: what was written, read back into a fresh network, computes what was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdd_cli.core.sampler import ImageNoise
from tdd_cli.families.base import Family, uncropped
from tdd_cli.families.lora import another_adapter, folded_state, load_lora
from tdd_cli.families.lora_file import read_lora, split_key
from tdd_cli.families.sharded import rest

Forward = Callable[[nn.Module], Tensor]
"""A network -> its prediction at fixed inputs."""

ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far two predictions may lie apart, over the largest value, when weights are kept in these: matrix
kernels round by where in memory a weight lies, and 16 bits round every weight."""

TRIAL_PROMPT = "a fox"
SIDE = 256  # pixels, at most: the check needs every weight, not every pixel


@dataclass(frozen=True)
class Reload:
    """What came of loading saved weights into a fresh network."""

    matched: int  # modules whose weights came back exactly, as the file's dtype can hold them
    total: int  # modules that were to be saved
    delta: float  # largest difference between the two networks' outputs
    allowed: float  # how much of it rounding may make

    @property
    def ok(self) -> bool:
        """Whether the file is as good as the network it was saved from; never with values not finite."""
        return self.matched == self.total and self.delta <= self.allowed


def check_saved(path: Path | str, net: Any, fresh: Any, forward: Forward, *, prefix: str = "unet") -> Reload:
    """Load the file at `path` into `fresh` (see `bare_copy`) and compare forward(fresh) with forward(net)."""
    load_lora(fresh, path, prefix=prefix)
    rounding = ROUNDING[next(net.parameters()).dtype]
    with torch.no_grad():
        return compare(
            folded_state(net), folded_state(fresh), forward(net), forward(fresh), rounding=rounding
        )


def check_in_place(path: Path | str, net: Any, forward: Forward, *, prefix: str = "unet") -> Reload:
    """The same without a fresh network, which for a sharded one would have to fit into one process.

    The adapter is zero while the file's is put in its place; of all processes.
    """
    rounding = ROUNDING[next(net.parameters()).dtype]
    with torch.no_grad():
        want, ours = folded_state(net), forward(net)
        with another_adapter(net, read_lora(path, net, prefix=prefix).state):
            rest(net)
            found = compare(want, folded_state(net), ours, forward(net), rounding=rounding)
    rest(net)
    return found


def check_whole(folder: Path | str, net: Any, forward: Forward | None, *, rounding: float) -> Reload:
    """The same for all of a network's weights, saved in `folder`: a fresh network of its class against `net`.

    forward   None: weights alone are compared, where `net` is only here to be saved
    rounding  how far the predictions may lie apart, over the largest value, in the arithmetic of `forward`
    """
    fresh = type(net).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    fresh = fresh.to(net.device).eval()
    with torch.no_grad():
        ours, theirs = (forward(each) if forward else torch.zeros(1) for each in (net, fresh))
        return compare(net.state_dict(), fresh.state_dict(), ours, theirs, rounding=rounding)


def compare(
    want: Mapping[str, Tensor],
    got: Mapping[str, Tensor],
    ours: Tensor,
    theirs: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    rounding: float = ROUNDING[torch.float32],
) -> Reload:
    """Weights and predictions before saving (want, ours) and after loading (got, theirs).

    dtype     of the file, in which weights are compared
    rounding  how far the predictions may lie apart, over the largest value of `ours`
    """
    same = {
        key for key, value in want.items() if key in got and torch.equal(value.to(dtype), got[key].to(dtype))
    }
    modules = _modules([*want, *got])
    wrong = _modules((want.keys() | got.keys()) - same)
    delta = (ours.float() - theirs.float()).abs().max().item()
    return Reload(len(modules - wrong), len(modules), delta, rounding * ours.float().abs().max().item())


def trial(family: Family) -> Forward:
    """A forward pass on fixed inputs, of any network in the place of the family's own."""
    height, width = (min(side, SIDE) for side in family.default_size)
    device = family.schedule.alpha.device
    x_t = ImageNoise([0]).draw(family.latent_shape(height, width), device)
    t = torch.tensor([500], device=device)
    cond = family.encode_prompts([TRIAL_PROMPT], uncropped(height, width, 1))

    def forward(net: nn.Module) -> Tensor:
        return family.denoise(x_t, t, cond, net=net)

    return forward


def _modules(keys: Iterable[str]) -> set[str]:
    """The modules that tensors belong to, in a LoRA state or in a network's own."""
    found = [(key, *split_key(key)) for key in keys]
    return {module if part else key.rpartition(".")[0] for key, module, part in found}
