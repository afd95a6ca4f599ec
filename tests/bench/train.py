"""What a training step costs beyond its network calls, and against the published way of doing one.

python tests/bench/train.py            # all; or some of: step, published, memory

CPU time of one thread, ratios of medians of interleaved runs, on the bundled miniature; memory counted from
tensors on the meta device, in SDXL's shape, which needs no weights and no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from sample import medians
from torch.utils.data import Dataset

from tdd_cli.core.guidance import Cond
from tdd_cli.data.batches import Batch
from tdd_cli.families import load_family
from tdd_cli.families.base import Family, uncropped
from tdd_cli.families.lora import add_lora, frozen_copy
from tdd_cli.families.sdxl import SDXL
from tdd_cli.recipe import load_recipe
from tdd_cli.training.assemble import make_method, make_pair
from tdd_cli.training.encode import from_cache
from tdd_cli.training.loop import Method, Shares, Step, train
from tdd_cli.training.prepare import COND
from tdd_cli.training.student import Pair, lora_pair

RECIPE = load_recipe("emoji-4to8", ["train.precision=fp32"])
BATCH = RECIPE.train.global_batch
SIDE = RECIPE.data.resolution
PROMPTS = [f"a {thing}" for thing in ("fox", "red apple", "rocket", "tent")] * (BATCH // 4)
SDXL_UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
ENCODERS = 123_060_480 + 694_659_840  # parameters of SDXL's two text encoders


class Cached(Dataset[Batch]):
    """Random latents with the conditions of a few prompts, as a cache on disk would give them."""

    def __init__(self, family: Family) -> None:
        self.cond = family.encode_prompts(PROMPTS)
        self.x0 = torch.randn(BATCH, *family.latent_shape(SIDE, SIDE))

    def __getitem__(self, row: int) -> Batch:
        one = slice(row % BATCH, row % BATCH + 1)
        cond = {COND + name: value[one] for name, value in self.cond.items() if name != "sizes"}
        return Batch({"x0": self.x0[one], **cond}, PROMPTS[one], uncropped(SIDE, SIDE, 1))


def optimizer_of(pair: Pair) -> torch.optim.Optimizer:
    """As a run has it."""
    return torch.optim.AdamW(pair.parameters, RECIPE.train.lr, fused=True)


def our_steps(family: Family, pair: Pair) -> Iterator[Step]:
    """The training loop as it is, fed from a cache."""
    return train(
        family,
        pair,
        make_method(RECIPE),
        Cached(family),
        optimizer_of(pair),
        Accelerator(cpu=True),
        encode=from_cache(family),
        shares=Shares(BATCH, BATCH),
        lr_at=lambda step: RECIPE.train.lr,
        grad_clip=RECIPE.train.grad_clip,
        seed=0,
        start=0,
        steps=10**6,
    )


def bare_step(family: Family, pair: Pair) -> Callable[[], None]:
    """The network calls of a step and nothing else."""
    x, t = torch.randn(BATCH, *family.latent_shape(SIDE, SIDE)), torch.full((BATCH,), 500)
    cond = family.encode_prompts(PROMPTS)
    kept = round(BATCH * (1 - RECIPE.train.drop_text))
    both: Cond = {name: torch.cat([value, value[:kept]]) for name, value in cond.items()}

    def step() -> None:
        with torch.no_grad():
            pair.teacher(torch.cat([x, x[:kept]]), torch.cat([t, t[:kept]]), both)
            pair.student(x, t, cond)
        pair.student(x, t, cond).square().mean().backward()
        for parameter in pair.parameters:
            parameter.grad = None

    return step


def published_step(method: Method) -> Callable[[], None]:
    """A step as it was published.

    Encoders inside, a teacher of its own, two calls of it for every sample, targets chosen one at a time.
    """
    family = load_family(RECIPE.model.family, RECIPE.model.path)
    origin = frozen_copy(family.net)
    pair = lora_pair(family, rank=RECIPE.student.rank)  # type: ignore[union-attr]
    optimizer, schedule = optimizer_of(pair), family.schedule
    pixels, sizes = torch.rand(BATCH, 3, SIDE, SIDE) * 2 - 1, uncropped(SIDE, SIDE, BATCH)

    def step() -> None:
        x0, cond = family.encode_images(pixels), family.encode_prompts(PROMPTS, sizes)
        null = family.null(cond)
        index = torch.randint(1, len(method.times), (BATCH,))
        t, t_prev = method.times[index], method.times[index - 1]
        s = torch.tensor([method.select(one[None], torch.default_generator).item() for one in t_prev])
        x_t = schedule.mix(x0, torch.randn_like(x0), t)
        with torch.no_grad():
            told = family.denoise(x_t, t, cond, net=origin)
            without = family.denoise(x_t, t, null, net=origin)
            x_prev = schedule.jump(x_t, torch.lerp(without, told, method.guidance), t, t_prev)
            theirs = schedule.jump(x_prev, pair.student(x_prev, t_prev, cond), t_prev, s)
        ours = schedule.jump(x_t, pair.student(x_t, t, cond), t, s)
        method.distance(ours, theirs).backward()
        torch.nn.utils.clip_grad_norm_(pair.parameters, RECIPE.train.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def memory() -> None:
    """Weights, gradients and optimizer in SDXL's shape: LoRA 64, 16 bits frozen, float32 trained."""
    with torch.device("meta"):
        net = UNet2DConditionModel(**SDXL_UNET)
    frozen = sum(parameter.numel() for parameter in net.parameters())
    trained = sum(parameter.numel() for parameter in add_lora(net, SDXL.lora_targets, rank=64))
    ours = 2 * frozen + 16 * trained  # weight, gradient and two moments of each trained one
    theirs = ours + 2 * frozen + 2 * ENCODERS
    print(
        f"SDXL: {frozen / 1e9:.3f} G frozen, {trained / 1e9:.3f} G trained parameters; "
        f"{ours / 2**30:.1f} GiB here, {theirs / 2**30:.1f} GiB the published way: {ours / theirs:.2f}"
    )


def main() -> None:
    """Parse, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=["step", "published", "memory", []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    what = args.what or ["step", "published", "memory"]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}, medians of {args.rounds} interleaved runs")
    if "memory" in what:
        memory()
    if {"step", "published"} & set(what):
        family = load_family(RECIPE.model.family, RECIPE.model.path)
        pair = make_pair(RECIPE, family)
        steps = our_steps(family, pair)
        rivals = [bare_step(family, pair), published_step(make_method(RECIPE))]
        ours, bare, theirs = medians(args.rounds, lambda: next(steps), *rivals)
        print(f"a step {ours * 1e3:.0f} ms, its network calls alone {bare * 1e3:.0f} ms: {ours / bare:.3f}")
        print(f"the published way {theirs * 1e3:.0f} ms: {theirs / ours:.2f} times as long")


if __name__ == "__main__":
    main()
