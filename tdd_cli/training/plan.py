"""What a run will need, before it: parameters, memory by part, disk and time. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from tdd_cli.families.base import Family, uncropped
from tdd_cli.families.blank import blank_family
from tdd_cli.recipe import LoraStudent, Recipe
from tdd_cli.run import RUNS, recipe_hash, runs
from tdd_cli.training.assemble import make_method, make_pair
from tdd_cli.training.footprint import reborn, weightless
from tdd_cli.training.log import peak_memory
from tdd_cli.training.optimizers import OPTIMIZERS
from tdd_cli.training.precision import precision
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
class Plan:
    """What a run comes to."""

    parameters: int  # of the network
    trainable: int
    memory: Memory
    busiest: str  # what is done when activations are at their most
    pictures: int  # seen, over all steps
    disk: int  # bytes of the checkpoints kept
    cached: int  # bytes of a sample in the cache on disk; 0 without one
    seconds: float | None  # None where no run of this recipe was measured here


def make_plan(recipe: Recipe, root: Path = RUNS) -> Plan:
    """The plan of a recipe; MissingComponent where the model's configuration is not here."""
    lora = isinstance(recipe.student, LoraStudent)
    dtype = precision(recipe.train.precision).frozen if lora else torch.float32
    model, side = recipe.model, recipe.data.resolution
    family = blank_family(model.family, model.path, dtype=dtype, config=model.config)
    parameters = sum(parameter.numel() for parameter in family.net.parameters())
    encoders = _encoder_bytes(family, recipe.data.cache)
    on_disk, text = recipe.data.cache in ("latents", "all"), recipe.data.cache == "all"
    cached = sample_bytes(recipe, family, text=text) if on_disk else 0
    batch = recipe.train.device_batch or recipe.train.global_batch
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
    pictures = recipe.train.steps * recipe.train.global_batch
    rate = measured_rate(recipe, root)
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
        pictures,
        recipe.checkpoint.keep * (trained + optimizer + average),
        cached,
        pictures / rate if rate else None,
    )


def measured_rate(recipe: Recipe, root: Path = RUNS) -> float | None:
    """Pictures a second of the newest run of the same recipe; None where there is none."""
    for run in runs(root):
        try:
            same = json.loads(run.manifest.read_text("utf-8")).get("recipe_sha256") == recipe_hash(recipe)
        except (OSError, ValueError):
            continue
        rates = [record["images_per_s"] for record in run.records()] if same else []
        if rates:
            return float(sorted(rates)[len(rates) // 2])
    return None


def lines(plan: Plan, recipe: Recipe) -> Iterator[str]:
    """The plan as text."""
    yield f"parameters   {plan.parameters:,}, trained {plan.trainable:,}"
    parts = ", ".join(f"{name} {_size(size)}" for name, size in asdict(plan.memory).items() if size)
    yield f"memory       about {_size(plan.memory.total)}: {parts} (most while {plan.busiest})"
    steps, batch = recipe.train.steps, recipe.train.global_batch
    yield f"steps        {steps:,} of {batch:,}: {plan.pictures:,} pictures seen"
    cache = f", {_size(plan.cached * 1_000_000)} of cache for every million samples" if plan.cached else ""
    yield f"disk         {_size(plan.disk)} of checkpoints{cache}"
    hours = (
        "unknown: no run of this recipe was measured here" if plan.seconds is None else _clock(plan.seconds)
    )
    yield f"time         {hours}"


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
