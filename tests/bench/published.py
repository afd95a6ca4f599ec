"""A training step done the published way: what `train.py` compares with. From its description.

As the authors' SDXL script has it, at the size and in the precision of the recipe:

pictures    read, decoded and cropped in every step, whether they were seen before or not
encoders    inside the step, in the run's 16 bits: the text encoders, and the VAE by eight pictures at a time,
            its posterior sampled
student     float32 weights under autocast, the adapter beside them in PEFT's layers, attention as torch
            chooses it
teacher     a float32 network of its own, under autocast; two calls for every sample, an empty prompt's too
targets     chosen sample by sample, each read back by the host
optimizer   torch's AdamW as it comes; the loss is read back after every step
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from clock import Clock, Timed
from torch import Tensor

from tdd_cli.core.times import largest_gap, stops
from tdd_cli.data.batches import Batch, Pictures, batches
from tdd_cli.families import load_family
from tdd_cli.families.base import Cond, Family
from tdd_cli.families.libraries import quiet
from tdd_cli.families.lora import frozen_copy
from tdd_cli.recipe import Recipe
from tdd_cli.training.assemble import make_method
from tdd_cli.training.precision import precision
from tdd_cli.training.stock import open_raw
from tdd_cli.training.student import lora_pair

VAE_BATCH = 8  # pictures
Kernel = Callable[[Tensor], AbstractContextManager[None]]


def as_torch_chooses(x_t: Tensor) -> AbstractContextManager[None]:
    """No choice of an attention kernel."""
    return nullcontext()


def published_step(recipe: Recipe, clock: Clock, attention: Kernel = as_torch_chooses) -> Callable[[], None]:
    """One optimizer step of a recipe, its parts timed; `attention` chooses the student's kernel."""
    dtype = precision(recipe.train.precision).frozen
    family = load_family(recipe.model.family, recipe.model.path, dtype=dtype)
    with quiet():
        family.vae.to(dtype)  # type: ignore[attr-defined]
    family.net.float()
    stock = batches(Timed(_pictures(recipe), clock, "data"), _rows(recipe.train.global_batch))

    def fresh() -> tuple[Tensor, Cond]:
        batch = next(stock)
        with clock.part("encoders"):
            return encode(family, batch, recipe.train.drop_text)

    return step_of(recipe, family, fresh, clock, dtype=dtype, attention=attention)


def step_of(
    recipe: Recipe,
    family: Family,
    fresh: Callable[[], tuple[Tensor, Cond]],
    clock: Clock,
    *,
    dtype: torch.dtype,
    attention: Kernel = as_torch_chooses,
) -> Callable[[], None]:
    """One optimizer step on what `fresh` gives, the networks under autocast to `dtype`."""
    settings, rule, method = recipe.train, recipe.target, make_method(recipe)
    origin = frozen_copy(family.net)
    pair = lora_pair(family, rank=recipe.student.rank, alpha=recipe.student.alpha)  # type: ignore[union-attr]
    if settings.gradient_checkpointing:
        family.net.enable_gradient_checkpointing()  # type: ignore[operator]
    family.net.train()
    optimizer = torch.optim.AdamW(pair.parameters, settings.lr, weight_decay=settings.weight_decay)
    schedule, device = family.schedule, family.schedule.alpha.device
    times = method.times.to(device)
    targets = stops(method.times, rule.k_min, rule.k_max).to(device)  # type: ignore[union-attr]
    reach, eta = largest_gap(method.times, rule.k_min), rule.eta  # type: ignore[union-attr]
    below = torch.cat([times.new_zeros(1), times[:-1]])
    cast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def step() -> None:
        x0, cond = fresh()
        null = family.null(cond)
        index = torch.randint(len(times), (len(x0),), device=device)
        t, t_prev = times[index], below[index]
        x_t = schedule.mix(x0, torch.randn_like(x0), t)
        with clock.part("student, forward"), cast, attention(x_t):
            pred = pair.student(x_t, t, cond)
        with clock.part("targets"):
            s = choose(targets, t_prev, reach=reach, eta=eta)
        ours = schedule.jump(x_t, pred, t, s)
        with torch.no_grad(), cast:
            with clock.part("teacher"):
                told = family.denoise(x_t, t, cond, net=origin)
                without = family.denoise(x_t, t, null, net=origin)
            x_prev = schedule.jump(x_t, torch.lerp(without, told, method.guidance), t, t_prev)
            with clock.part("target, forward"), attention(x_prev):
                pred = pair.student(x_prev, t_prev, cond)
            theirs = schedule.jump(x_prev, pred, t_prev, s)
        loss = method.distance(ours, theirs)
        with clock.part("student, backward"):
            loss.backward()
        with clock.part("optimizer"):
            torch.nn.utils.clip_grad_norm_(pair.parameters, settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return step


@torch.no_grad()
def encode(family: Family, batch: Batch, drop_text: float) -> tuple[Tensor, Cond]:
    """x0 and the condition of a batch of pictures, as every step makes them anew."""
    vae = family.vae  # type: ignore[attr-defined]
    prompts = ["" if random.random() < drop_text else prompt for prompt in batch.prompts]
    cond = family.encode_prompts(prompts, batch.sizes)
    parts = batch.tensors["pixels"].to(vae.dtype).split(VAE_BATCH)
    x0 = torch.cat([vae.encode(part).latent_dist.sample() for part in parts])
    return x0.float() * vae.config.scaling_factor, cond


def choose(targets: Tensor, t_prev: Tensor, *, reach: int, eta: float) -> Tensor:
    """tdd's targets s [B] of t_prev [B], one sample after the other."""
    tau = []
    for one in t_prev:
        highest = targets[targets <= one][-1]
        near = targets[(targets >= highest - reach) & (targets <= highest)]
        tau.append(near[torch.randint(len(near), (1,)).item()].item())
    u = torch.rand(len(tau), device=t_prev.device)
    return torch.floor((1 - u * eta) * torch.tensor(tau, device=t_prev.device)).long()


def _pictures(recipe: Recipe) -> Pictures:
    source = open_raw(recipe.data, recipe.train.seed).source
    assert source is not None
    return Pictures(source, resolution=recipe.data.resolution, flip=recipe.data.flip, seed=recipe.train.seed)


def _rows(batch: int) -> Iterator[range]:
    start = 0
    while True:
        yield range(start, start + batch)
        start += batch
