"""SDXL's network on a GPU, random weights: speed, memory, and the share of what its matrix unit can do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from clock import Clock
from published import step_of
from shapes import FULL, SMALL, Encoders, Shape, Untrained, conditions
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from tdd_cli.core.guidance import Cond
from tdd_cli.data.batches import Batch
from tdd_cli.families.base import uncropped
from tdd_cli.families.compiled import compile_net
from tdd_cli.recipe import Recipe, load_recipe
from tdd_cli.training.assemble import make_method
from tdd_cli.training.descent import Plain
from tdd_cli.training.loop import Shares, Step, train
from tdd_cli.training.student import lora_pair

WARM, STEPS = 3, 5  # steps not measured, and measured
BATCHES = (1, 2, 4, 8, 16, 32)


class Latents(Dataset[Batch]):
    """Random latents, as a cache would give them."""

    def __init__(self, shape: tuple[int, ...], pixels: int) -> None:
        self.shape, self.pixels = shape, pixels

    def __getitem__(self, row: int) -> Batch:
        return Batch({"x0": torch.randn(1, *self.shape)}, [""], uncropped(self.pixels, self.pixels, 1))


def our_step(recipe: Recipe, shape: Shape, device: str, *, compiled: bool) -> Callable[[], object]:
    """A step of the training loop as it is, fed with latents and conditions that are there."""
    family = Untrained(shape, dtype=torch.bfloat16, device=device)
    pair = lora_pair(family, rank=recipe.student.rank)  # type: ignore[arg-type, union-attr]
    if recipe.train.gradient_checkpointing:
        family.net.enable_gradient_checkpointing()  # type: ignore[operator]
    family.net.train()
    if compiled:
        family.net = compile_net(family.net)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16")
    optimizer = torch.optim.AdamW(pair.parameters, recipe.train.lr, fused=True)
    family.net, optimizer = accelerator.prepare(family.net, optimizer)
    batch = recipe.train.global_batch
    cond = conditions(shape, batch, device)

    def encode(rows: Batch) -> tuple[Tensor, Cond]:
        return rows.tensors["x0"].to(device, non_blocking=True), cond

    steps: Iterator[Step] = train(
        family,  # type: ignore[arg-type]
        pair,
        make_method(recipe),
        Latents(family.latent, shape.pixels),
        Plain(family, pair.parameters, optimizer, accelerator, recipe.train.grad_clip),  # type: ignore[arg-type]
        encode=encode,
        shares=Shares(batch, batch),
        lr_at=lambda step: recipe.train.lr,
        seed=0,
        start=0,
        steps=10**6,
    )
    return lambda: next(steps)


def their_step(recipe: Recipe, shape: Shape, device: str) -> Callable[[], object]:
    """A step the published way (published.py), encoders and all."""
    encoders = Encoders(shape, dtype=torch.bfloat16, device=device)
    family = Untrained(shape, dtype=torch.float32, device=device)
    batch = recipe.train.global_batch
    return step_of(recipe, family, lambda: encoders.encode(batch), Clock(), dtype=torch.bfloat16)  # type: ignore[arg-type]


WAYS: dict[str, Callable[[Recipe, Shape, str], Callable[[], object]]] = {
    "here, eager": lambda recipe, shape, device: our_step(recipe, shape, device, compiled=False),
    "here, compiled": lambda recipe, shape, device: our_step(recipe, shape, device, compiled=True),
    "published": their_step,
}


def picture_flops(shape: Shape, *, rank: int, guided: float) -> float:
    """Of the network calls of a step, for one picture: counted without memory, recomputation left out.

    guided  null halves of the teacher for each picture
    """
    family = Untrained(shape, dtype=torch.bfloat16, device="meta")
    x, t = torch.empty(1, *family.latent, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    cond = conditions(shape, 1, "meta")

    def count(call: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    with torch.no_grad():
        bare = count(lambda: family.denoise(x, t, cond))  # type: ignore[arg-type]
    pair = lora_pair(family, rank=rank)  # type: ignore[arg-type]
    for parameter in family.net.parameters():  # there is no autocast without numbers
        parameter.data = parameter.data.to(torch.bfloat16)
    with torch.no_grad():
        target = count(lambda: pair.student(x, t, cond))
    return (1 + guided) * bare + target + count(lambda: pair.student(x, t, cond).sum().backward())


def matmul_rate(device: str, side: int) -> float:
    """Floating-point operations a second of a bf16 matrix product."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / seconds(lambda: a @ b, device, warm=WARM, times=20)


def seconds(call: Callable[[], object], device: str, *, warm: int, times: int) -> float:
    """Wall-clock seconds of one call, the device waited for at both ends."""
    for _ in range(warm):
        call()
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (time.perf_counter() - began) / times


def measured(
    way: str, recipe: Recipe, shape: Shape, device: str, *, warm: int, times: int
) -> tuple[float, float | None]:
    """(pictures a second, peak GiB: None on a CPU) of one way; OutOfMemoryError where it does not fit."""
    _clear(device)
    step = WAYS[way](recipe, shape, device)
    rate = recipe.train.global_batch / seconds(step, device, warm=warm, times=times)
    return rate, torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def gpu(*, small: bool) -> Iterator[str]:
    """The table, a line at a time: batch 1 with checkpointing, then larger batches until they do not fit."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, side = (SMALL, 256) if small else (FULL, 8192)
    batches, warm, times = ((1, 2), 1, 1) if small else (BATCHES, WARM, STEPS)
    if device == "cpu":
        yield "no GPU here: on the CPU, so that one sees that it runs; its figures mean nothing"
    peak = matmul_rate(device, side)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    yield f"{name}, torch {torch.__version__}: matrix product in bf16 {peak / 1e9:,.0f} GFLOP/s"
    size = "SDXL's architecture in small" if small else "SDXL's UNet"
    yield f"{size}, random weights, LoRA 64, {shape.pixels} px, bf16"
    flops = {"published": picture_flops(shape, rank=64, guided=1.0)}
    here = picture_flops(shape, rank=64, guided=0.8)
    yield f"a picture: {here / 1e9:,.1f} GFLOP here, {flops['published'] / 1e9:,.1f} the published way"
    yield "| way | checkpointing | batch | images/s | peak GiB | of the matrix rate |"
    yield "|---|---|---|---|---|---|"
    for way in WAYS:
        if way == "here, compiled" and small:
            continue  # minutes of compiling for a second of running
        for checkpointing in (True, False):
            for batch in batches:
                recipe = load_recipe("sdxl-4to8", _changes(batch, checkpointing))
                row = f"| {way} | {'yes' if checkpointing else 'no'} | {batch} |"
                try:
                    rate, memory = measured(way, recipe, shape, device, warm=warm, times=times)
                except torch.OutOfMemoryError:
                    yield f"{row} does not fit | | |"
                    break
                share = rate * flops.get(way, here) / peak
                yield f"{row} {rate:.2f} | {'' if memory is None else f'{memory:.1f}'} | {share:.1%} |"


def _changes(batch: int, checkpointing: bool) -> list[str]:
    return [
        f"train.global_batch={batch}",
        f"train.device_batch={batch}",
        f"train.gradient_checkpointing={str(checkpointing).lower()}",
    ]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _clear(device: str) -> None:
    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
