"""What a run does at its largest, gone through without numbers: the memory it takes beside what it keeps."""

from __future__ import annotations

import torch
from torch import nn

from tdd_cli.core.guidance import conditioned, guided
from tdd_cli.core.loss import distillation_loss
from tdd_cli.families.base import Cond, Family
from tdd_cli.recipe import Recipe
from tdd_cli.training.footprint import peak_bytes
from tdd_cli.training.loop import Method
from tdd_cli.training.precision import precision
from tdd_cli.training.student import Pair


def rehearse(
    recipe: Recipe, method: Method, family: Family, pair: Pair, cond: Cond, null: Cond
) -> dict[str, int]:
    """The most bytes in use at once, by what is done then, weights, gradients and optimizer not counted.

    family, pair, conditions [B, ...]  inside `footprint.weightless`; the network is changed
    """
    side = recipe.data.resolution
    parts = [part for part in family.pipeline().components.values() if isinstance(part, nn.Module)]
    if pair.frozen is not None:
        parts.append(pair.frozen)
    known = [parameter for part in parts for parameter in part.parameters()]
    working = {"training": _step(recipe, method, family, pair, cond, null, known)}
    if recipe.data.prompts is None:
        pictures = torch.empty(len(next(iter(cond.values()))), 3, side, side)
        working["encoding pictures"] = peak_bytes(lambda: family.encode_images(pictures), known=known)
    if recipe.preview.prompts:
        latents = torch.empty(len(recipe.preview.prompts), *family.latent_shape(side, side))
        working["drawing previews"] = peak_bytes(torch.no_grad()(lambda: family.decode(latents)), known=known)
    return working


def _step(
    recipe: Recipe,
    method: Method,
    family: Family,
    pair: Pair,
    cond: Cond,
    null: Cond,
    known: list[nn.Parameter],
) -> int:
    """Of one forward and backward pass, every sample guided: what autograd keeps, and what comes and goes."""
    mixed, dtype = precision(recipe.train.precision)
    side = recipe.data.resolution
    batch = len(next(iter(cond.values())))
    x0 = torch.empty(batch, *family.latent_shape(side, side))
    t = torch.zeros(batch, dtype=torch.long)
    autocast = torch.autocast(x0.device.type, dtype, enabled=mixed != "no")
    for network in (family.net, pair.frozen):
        if network is not None:
            network.forward = autocast(network.forward)  # as accelerate wraps it
    trained = [parameter for parameter in family.net.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)

    def step() -> None:
        with pair.steady():
            teacher = guided(pair.teacher, cond, null, method.guidance)
            student = conditioned(pair.student, cond)
            loss = distillation_loss(family.schedule, student, teacher, x0, x0, t, t, t, method.distance)
            loss.backward()

    return peak_bytes(step, known=[*known, *(one.grad for one in trained if one.grad is not None)])
