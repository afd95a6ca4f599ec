"""From a recipe to the pieces of a run. The only place where a recipe's training sections are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from tdd_cli.core.loss import LOSSES
from tdd_cli.core.targets import TARGETS
from tdd_cli.core.times import solver_grid
from tdd_cli.errors import RecipeError
from tdd_cli.families import load_family
from tdd_cli.families.base import Family
from tdd_cli.families.compiled import check_compiler, compile_net
from tdd_cli.families.reload import TRIAL_PROMPT
from tdd_cli.families.sharded import is_sharded
from tdd_cli.families.styles import fuse_style
from tdd_cli.processes import PATIENCE, check_met
from tdd_cli.recipe import LoraStudent, Recipe
from tdd_cli.training.descent import Descent, Plain
from tdd_cli.training.ema import Ema
from tdd_cli.training.encode import checked
from tdd_cli.training.loop import Method, Shares, Step, learning_rate, train
from tdd_cli.training.optimizers import optimizer_choice
from tdd_cli.training.precision import precision
from tdd_cli.training.sharding import check_launcher, settle, sharded_pair
from tdd_cli.training.stock import Show, Stock, drain, open_raw, open_stock
from tdd_cli.training.student import Pair, full_pair, lora_pair
from tdd_cli.training.trackers import check_trackers
from tdd_cli.training.zero import check_recipe, hidden, zero_pair, zero_settings


@dataclass(frozen=True)
class Assembled:
    """The pieces of a run, ready to start at any step."""

    family: Family
    pair: Pair
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    stock: Stock
    ema: Ema | None  # the student's average, where the recipe asks for one
    steps: Callable[..., Iterator[Step]]  # (start=, steps=) -> the training loop


def assemble(recipe: Recipe, *, show: Show = drain) -> Assembled:
    """Open the data, load the model, fill the cache, put the student on: all that can fail before a run.

    show  draws the making of a cache to its end, and may say how it goes
    """
    settings = recipe.train
    choice = optimizer_choice(settings.optimizer)
    check_trackers(settings.trackers)
    mixed, dtype = precision(settings.precision)
    check_launcher(os.environ)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    zero = zero_settings(os.environ)
    if zero:
        check_recipe(optimizer=settings.optimizer, precision=settings.precision)
    with hidden(os.environ):
        accelerator = Accelerator(mixed_precision=mixed, kwargs_handlers=[patience])
    check_met(accelerator.num_processes, os.environ)
    lora = isinstance(recipe.student, LoraStudent)
    merge = isinstance(recipe.student, LoraStudent) and recipe.student.merge
    settle(accelerator, merge=merge, optimizer=settings.optimizer)
    if settings.compile:
        check_compiler(accelerator.device, sharded=accelerator.distributed_type == DistributedType.FSDP)
    raw = open_raw(recipe.data, settings.seed)
    family = load_family(
        recipe.model.family,
        recipe.model.path,
        dtype=dtype if lora else torch.float32,
        device=accelerator.device,
        config=recipe.model.config,
    )
    for file, scale in recipe.model.styles:
        fuse_style(family, Path(file).expanduser(), scale)
    if settings.channels_last:
        family.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stock = open_stock(
        raw,
        recipe,
        family,
        show=show,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        wait=accelerator.wait_for_everyone,
    )
    encode = checked(stock.encode(family))
    if recipe.data.cache in ("latents", "all"):
        needed = [*recipe.preview.prompts, TRIAL_PROMPT] if recipe.data.cache == "all" else None
        family.release(text=needed)
    pair = make_pair(recipe, family)
    if settings.gradient_checkpointing:
        family.net.enable_gradient_checkpointing()  # type: ignore[operator]
    optimizer = choice.make(pair.parameters, settings.lr, settings.weight_decay)
    family.net.train()
    descent: Descent
    if zero:
        family.net = accelerator.prepare_model(family.net, evaluation_mode=True)  # autocast, and no DDP
        pair, descent = zero_pair(family.net, pair, optimizer, zero, grad_clip=settings.grad_clip)
        optimizer = descent.optimizer
    else:
        family.net, optimizer = accelerator.prepare(family.net, optimizer)
        if is_sharded(family.net):
            pair = sharded_pair(pair, family.net, optimizer, accelerator)
        descent = Plain(family, pair.parameters, optimizer, accelerator, settings.grad_clip)
    if pair.frozen is not None and not is_sharded(family.net):
        accelerator.prepare_model(pair.frozen, evaluation_mode=True)  # autocast, as the student's
    if settings.compile:
        family.net = compile_net(family.net)
        if pair.frozen is not None:
            pair.frozen.compile()
    ema = Ema(pair.parameters, settings.ema) if settings.ema else None
    steps = partial(
        train,
        family,
        pair,
        make_method(recipe),
        stock.stream,
        descent,
        encode=encode,
        shares=make_shares(settings.global_batch, settings.device_batch, accelerator),
        lr_at=learning_rate(
            settings.lr, warmup=settings.warmup, steps=settings.steps, schedule=settings.lr_schedule
        ),
        seed=settings.seed,
        workers=recipe.data.workers,
        ema=ema,
    )
    return Assembled(family, pair, accelerator, optimizer, stock, ema, steps)


def make_method(recipe: Recipe) -> Method:
    """The target rule, the loss and the teacher's guidance that the recipe chooses."""
    times = solver_grid(recipe.teacher.grid)
    return Method(
        times,
        select=TARGETS[recipe.target.rule](times, **recipe.target.model_dump(exclude={"rule"})),
        distance=LOSSES[recipe.loss.kind](**recipe.loss.model_dump(exclude={"kind"})),
        guidance=recipe.teacher.guidance,
        drop_text=recipe.train.drop_text,
    )


def make_pair(recipe: Recipe, family: Family) -> Pair:
    """Student and teacher as the recipe's student section says."""
    if isinstance(recipe.student, LoraStudent):
        settings = recipe.student.model_dump(exclude={"kind"})
        return lora_pair(family, **settings, seed=recipe.train.seed)
    return full_pair(family, frozen=precision(recipe.train.precision).frozen)


def make_shares(batch: int, micro: int | None, accelerator: Accelerator) -> Shares:
    """The share this process takes of the global batch; RecipeError if it does not divide."""
    processes = accelerator.num_processes
    if batch % processes:
        raise RecipeError(
            f"train.global_batch ({batch}) must be a multiple of the {processes} processes of this run",
            hint="Change it, or start another number of processes.",
        )
    return Shares(batch, micro or batch // processes, accelerator.process_index, processes)
