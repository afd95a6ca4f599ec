"""What a training step costs beyond its network calls, and against the published way of doing one.

python tests/bench/train.py            # all of it; or some of:

step       a step of the bundled miniature over the sum of its network calls (CPU time of one thread)
published  a step of the miniature done the published way over one of ours, part by part (likewise)
memory     weights, gradients and optimizer in SDXL's shape, here and the published way (on the meta device)
estimate   the memory that `tdd distill --dry-run` foresees against what runs of the miniature then take
plans      what `tdd distill --dry-run` foresees for sdxl-4to8 and sd15-4to8, from models of their shapes
gpu        SDXL's UNet with random weights: images/s, peak memory, share of the matrix rate; small on a CPU

--precision fp32 or bf16 for step and published; default: auto, as the recipe has it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from clock import Clock, Timed, accounts, ratio, table
from diffusers import UNet2DConditionModel
from estimate import estimates
from gpu import gpu
from plans import plans
from published import published_step
from shapes import FULL, Encoders, made
from torch import Tensor

from tdd_cli.families.base import Cond
from tdd_cli.families.lora import add_lora
from tdd_cli.families.merged import trainable_attention
from tdd_cli.families.reload import TRIAL_PROMPT
from tdd_cli.families.sdxl import SDXL
from tdd_cli.recipe import Recipe, load_recipe
from tdd_cli.training.assemble import Assembled, assemble
from tdd_cli.training.descent import Descent, Update
from tdd_cli.training.loop import Step

RECIPE = "emoji-4to8"
WHAT = ["step", "published", "memory", "estimate", "plans", "gpu"]
PARTS = [
    *("data", "encoders", "teacher", "targets", "merging", "target, forward"),
    *("student, forward", "student, backward", "optimizer"),
]


@dataclass(frozen=True)
class Through(Descent):
    """A descent, its parts timed."""

    inner: Descent
    backward: Callable[[Tensor], None]
    step: Callable[[float], Update]

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """See Descent."""
        return self.inner.part(last=last)


def our_steps(parts: Assembled, clock: Clock) -> Iterator[Step]:
    """The training loop as it is, its parts timed."""
    family, pair, method, stream, descent = parts.steps.args  # type: ignore[attr-defined]

    def whose() -> str:
        return "student, forward" if torch.is_grad_enabled() else "target, forward"

    @contextmanager
    def steady() -> Iterator[None]:
        with ExitStack() as stack:
            with clock.part("merging"):
                stack.enter_context(pair.steady())
            yield

    student, teacher = clock.timed(whose, pair.student), clock.timed("teacher", pair.teacher)
    choose = clock.timed("targets", method.select)
    backward = clock.timed("student, backward", descent.backward)
    step = clock.timed("optimizer", descent.step)
    given = {**parts.steps.keywords, "encode": clock.timed("encoders", parts.steps.keywords["encode"])}  # type: ignore[attr-defined]
    return parts.steps.func(  # type: ignore[attr-defined]
        family,
        replace(pair, student=student, teacher=teacher, steady=steady),
        replace(method, select=choose),
        Timed(stream, clock, "data"),
        Through(descent, backward, step),
        **given,
        start=0,
        steps=10**6,
    )


def bare_step(recipe: Recipe, parts: Assembled) -> Callable[[], None]:
    """The network calls of a step and nothing else."""
    family, pair, batch, side = parts.family, parts.pair, recipe.train.global_batch, recipe.data.resolution
    x, t = torch.randn(batch, *family.latent_shape(side, side)), torch.full((batch,), 500)
    cond = family.encode_prompts([TRIAL_PROMPT] * batch)
    kept = round(batch * (1 - recipe.train.drop_text))
    both: Cond = {name: torch.cat([value, value[:kept]]) for name, value in cond.items()}

    def step() -> None:
        with pair.steady():
            with torch.no_grad():
                pair.teacher(torch.cat([x, x[:kept]]), torch.cat([t, t[:kept]]), both)
                pair.student(x, t, cond)
            pair.student(x, t, cond).square().mean().backward()
        for parameter in pair.parameters:
            parameter.grad = None

    return step


def miniature(what: list[str], precision: str, rounds: int) -> None:
    """A step of the bundled recipe, fed from a cache, against its network calls and the published way."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"train.precision={precision}", "data.cache=all", f"data.cache_folder={folder}/cache"]
        recipe, clocks = load_recipe(RECIPE, changes), [Clock() for _ in range(4)]
        parts = assemble(recipe)
        steps = our_steps(parts, clocks[0])
        sides = {"here": (clocks[0], lambda: next(steps))}
        if "step" in what:
            sides["its network calls"] = (clocks[1], bare_step(recipe, parts))
        if "published" in what:
            sides["published"] = (clocks[2], published_step(recipe, clocks[2]))
            like_ours = published_step(recipe, clocks[3], trainable_attention)
            sides["published, our attention"] = (clocks[3], like_ours)
        found = accounts(rounds, sides)
    cast = parts.accelerator.mixed_precision
    print(f"{RECIPE}, batch {recipe.train.global_batch}, autocast: {cast}, medians of {rounds} rounds")
    print("\n".join(table(found, PARTS)))
    if "step" in what:
        print(f"a step over its network calls alone: {ratio(found, 'here', 'its network calls'):.3f}")
    if "published" in what:
        for name in ("published", "published, our attention"):
            print(f"images/s against those of {name}: {ratio(found, name, 'here'):.2f}")


def memory() -> None:
    """Weights, gradients and optimizer in SDXL's shape, LoRA 64: the published way in 16 bits and in 32."""
    net = made(UNet2DConditionModel, torch.bfloat16, "meta", **FULL.unet)
    frozen = sum(parameter.numel() for parameter in net.parameters())
    trained = sum(parameter.numel() for parameter in add_lora(net, SDXL.lora_targets, rank=64))
    texts = Encoders(FULL, dtype=torch.bfloat16, device="meta").texts
    encoders = sum(parameter.nbytes for text in texts for parameter in text.parameters())
    adapter = 16 * trained  # weight, gradient and two moments of each trained number
    ours = 2 * frozen + adapter
    print(f"SDXL: {frozen / 1e9:.3f} G frozen, {trained / 1e9:.3f} G trained; {ours / 2**30:.1f} GiB here")
    for width, name in ((2, "both networks in 16 bits"), (4, "in 32, as its script has them")):
        theirs = 2 * width * frozen + adapter + encoders
        print(f"the published way, {name}: {theirs / 2**30:.1f} GiB; here over that {ours / theirs:.2f}")


def main() -> None:
    """Parse, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=[*WHAT, []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    args = parser.parse_args()
    what = args.what or WHAT
    torch.manual_seed(0)
    print(f"torch {torch.__version__}")
    if "gpu" in what:
        for line in gpu(small=not torch.cuda.is_available()):
            print(line, flush=True)
    torch.set_num_threads(1)
    if "memory" in what:
        memory()
    if "estimate" in what:
        for line in estimates():
            print(line, flush=True)
    if "plans" in what:
        for line in plans():
            print(line, flush=True)
    if {"step", "published"} & set(what):
        miniature(what, args.precision, args.rounds)


if __name__ == "__main__":
    main()
