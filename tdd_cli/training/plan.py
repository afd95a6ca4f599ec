"""What a run will need, before it: parameters, memory by part, disk and time. No weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from tdd_cli.data.prompts import read_prompts
from tdd_cli.errors import DataError
from tdd_cli.families.base import Family, uncropped
from tdd_cli.families.blank import blank_family
from tdd_cli.recipe import LoraStudent, Recipe
from tdd_cli.run import RUNS
from tdd_cli.training.assemble import make_method, make_pair
from tdd_cli.training.footprint import reborn, weightless
from tdd_cli.training.log import peak_memory
from tdd_cli.training.optimizers import OPTIMIZERS
from tdd_cli.training.precision import precision
from tdd_cli.training.rates import Rate, forward_batch, measured_rate
from tdd_cli.training.rehearsal import rehearse
from tdd_cli.training.stock import sample_bytes

HEAP = 0.75  # of the activations: freed blocks that a CPU's allocator keeps; measured, docs/performance.md


@dataclass(frozen=True)
class Memory:
    """Bytes on the device, by what they are for."""

    program: int  # interpreter and libraries, which on a CPU are in the same memory; 0 on an accelerator
    weights: int  # of the network, or of both networks, and of the student's average if there is one
    encoders: int  # and the VAE's decoder, for previews
    gradients: int
    optimizer: int
    activations: int  # and whatever else comes and goes, at its most
    heap: int  # what the allocator keeps of it between; 0 on an accelerator, whose peak counts no free blocks

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Disk:
    """What is on the disk at the most."""

    checkpoint: int  # bytes of one
    newest: int  # checkpoints kept for resuming
    milestones: int  # and those kept for good beside them
    result: int  # bytes of the student
    sample: int  # bytes of one in the cache; 0 without one on disk
    samples: int | None  # in the cache; None where nobody has counted the data yet

    @property
    def checkpoints(self) -> int:
        """Bytes of those kept, and of one that is being written beside them."""
        return (self.newest + self.milestones + 1) * self.checkpoint

    @property
    def total(self) -> int:
        """Bytes of all that can be counted."""
        return self.checkpoints + self.result + self.sample * (self.samples or 0)


@dataclass(frozen=True)
class Plan:
    """What a run comes to."""

    parameters: int  # of the network
    trainable: int
    memory: Memory
    busiest: str  # what is done when activations are at their most
    pictures: int  # seen, over all steps
    disk: Disk
    rate: Rate | None  # of a run like this one; None where none was measured here


def make_plan(recipe: Recipe, root: Path = RUNS, *, processes: int = 1) -> Plan:
    """The plan of a recipe, memory for one of the processes.

    MissingComponent where the model's configuration is not here.
    """
    lora = isinstance(recipe.student, LoraStudent)
    dtype = precision(recipe.train.precision).frozen if lora else torch.float32
    model, side = recipe.model, recipe.data.resolution
    family = blank_family(model.family, model.path, dtype=dtype, config=model.config)
    parameters = sum(parameter.numel() for parameter in family.net.parameters())
    encoders = _encoder_bytes(family, recipe.data.cache)
    on_disk, text = recipe.data.cache in ("latents", "all"), recipe.data.cache == "all"
    sample = sample_bytes(recipe, family, text=text) if on_disk else 0
    batch = forward_batch(recipe, processes)
    cond = family.encode_prompts([""] * batch, uncropped(side, side, batch))
    null = family.null(cond)
    parts = [part for part in family.pipeline().components.values() if isinstance(part, nn.Module)]
    pair = make_pair(recipe, family)
    if recipe.train.gradient_checkpointing:
        family.net.enable_gradient_checkpointing()  # type: ignore[operator]
    family.net.train()
    trained, trainable = _bytes(pair.parameters), sum(one.numel() for one in pair.parameters)
    average = trained if recipe.train.ema else 0
    networks = [family.net, *([] if pair.frozen is None else [pair.frozen])]
    weights = sum(_bytes(network.parameters()) for network in networks) + average
    optimizer = OPTIMIZERS[recipe.train.optimizer].bytes * trainable
    method = make_method(recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with weightless(device):
        for part in (*parts, pair.frozen):
            if part is not None:
                reborn(part)
        family.schedule = family.schedule.to(device)
        cond, null = ({name: value.to(device) for name, value in one.items()} for one in (cond, null))
        working = rehearse(recipe, method, family, pair, cond, null)
    busiest = max(working, key=working.__getitem__)
    newest, milestones = checkpoints_kept(recipe)
    return Plan(
        parameters,
        trainable,
        Memory(
            program=_program_bytes() if device == "cpu" else 0,
            weights=weights,
            encoders=encoders,
            gradients=trained,
            optimizer=optimizer,
            activations=working[busiest],
            heap=int(HEAP * working[busiest]) if device == "cpu" else 0,
        ),
        busiest,
        recipe.train.steps * recipe.train.global_batch,
        Disk(
            checkpoint=trained + optimizer + average,
            newest=newest,
            milestones=milestones,
            result=trained,
            sample=sample,
            samples=_samples(recipe) if on_disk else None,
        ),
        measured_rate(recipe, root, processes=processes),
    )


def checkpoints_kept(recipe: Recipe) -> tuple[int, int]:
    """(newest, milestones beside them) of the checkpoints there are while the last one is written."""
    rules, steps = recipe.checkpoint, recipe.train.steps
    before = range(rules.every, steps, rules.every)
    newest = min(rules.keep, len(before))
    older = before[: len(before) - newest]
    return newest, sum(step % rules.keep_every == 0 for step in older) if rules.keep_every else 0


def _samples(recipe: Recipe) -> int | None:
    """How many samples a cache is made from, where that is known without opening pictures."""
    try:
        prompts = read_prompts(recipe.data.prompts or "", column=recipe.data.caption_column)
    except DataError:
        return None
    return len(prompts) * recipe.data.per_prompt


def lines(plan: Plan, recipe: Recipe) -> Iterator[str]:
    """The plan as text."""
    yield f"parameters   {plan.parameters:,}, trained {plan.trainable:,}"
    parts = ", ".join(f"{name} {_size(size)}" for name, size in asdict(plan.memory).items() if size)
    yield f"memory       about {_size(plan.memory.total)}: {parts} (most while {plan.busiest})"
    steps, batch = recipe.train.steps, recipe.train.global_batch
    yield f"steps        {steps:,} of {batch:,}: {plan.pictures:,} pictures seen"
    yield f"disk         about {_size(plan.disk.total)}: {', '.join(_disk_parts(plan.disk))}"
    yield f"time         {_time(plan)}"


def _disk_parts(disk: Disk) -> Iterator[str]:
    """What is on the disk, in words."""
    kept = [f"{disk.newest} newest"] if disk.newest else []
    kept += [f"{disk.milestones} kept for good"] if disk.milestones else []
    which = ", ".join([*kept, "1 being written"])
    yield f"checkpoints {_size(disk.checkpoints)} ({which}, {_size(disk.checkpoint)} each)"
    yield f"result {_size(disk.result)}"
    if disk.sample and disk.samples is not None:
        yield f"cache {_size(disk.sample * disk.samples)} of {disk.samples:,} samples"
    elif disk.sample:
        yield f"and {_size(disk.sample * 1_000_000)} of cache for every million samples"


def _time(plan: Plan) -> str:
    """How long the steps will take, in words."""
    if plan.rate is None:
        return "unknown: no run like this one was measured here"
    cache = ", and what the cache takes to make" if plan.disk.sample else ""
    clock = _clock(plan.pictures / plan.rate.pictures)
    return f"{clock} at {plan.rate.pictures:.1f} images/s, as in {plan.rate.run}{cache}"


def _program_bytes() -> int:
    """What this process has taken by now, with all loaded that a run loads; the plan itself takes little."""
    import datasets  # noqa: F401  # a third of it, and no plan needs it otherwise

    return peak_memory()


def _encoder_bytes(family: Family, cache: str) -> int:
    """What is in memory beside the network; a cache on disk needs fewer of them."""
    total = 0
    for name, part in family.pipeline().components.items():
        if not isinstance(part, nn.Module) or name == family.parts.net:
            continue
        if name.startswith("text_encoder") and cache == "all":
            continue
        total += _bytes(part.parameters())
        if name == "vae" and cache in ("latents", "all"):
            total -= _bytes(part.encoder.parameters())  # type: ignore[union-attr]
    return total


def _bytes(parameters: object) -> int:
    return sum(parameter.nbytes for parameter in parameters)  # type: ignore[attr-defined]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _clock(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
