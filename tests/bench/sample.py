"""What sampling costs beyond the network: ratios of medians of interleaved runs, CPU time of one thread.

python tests/bench/sample.py            # all; or some of: engine, scheduler, student
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import TCDScheduler

from tdd_cli.bundled.emoji import GUIDANCE
from tdd_cli.core.sampler import ImageNoise
from tdd_cli.families import load_family
from tdd_cli.families.base import Family, uncropped
from tdd_cli.generate import Sampling, draw
from tdd_cli.scheduler import TDDScheduler
from tdd_cli.student import bundled, load

BATCH = 16
PROMPTS = ["a fox", "a red apple", "a rocket", "a tent"] * (BATCH // 4)
SEEDS = list(range(BATCH))
SIZE = (64, 64)


def medians(rounds: int, *ways: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each way; in every round each runs once, so that all meet the same machine."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, seconds in zip(ways, taken, strict=True):
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
    return [statistics.median(seconds[1:]) for seconds in taken]  # the first round warms up


@torch.no_grad()
def engine(family: Family, rounds: int) -> None:
    """A whole drawing against its network calls alone: prompts encoded, UNet called, pictures decoded."""
    sampling = Sampling(steps=4)
    times = sampling.times()
    noise = ImageNoise(SEEDS).draw(family.latent_shape(*SIZE))
    sizes = uncropped(*SIZE, BATCH)
    cond = family.encode_prompts(PROMPTS, sizes)
    inputs = family._inputs(cond, torch.float32)  # type: ignore[attr-defined]

    def calls() -> None:
        for t in times:
            family.net(noise, family.schedule.model_time[t].expand(BATCH), **inputs, return_dict=False)

    def bare() -> None:
        family.encode_prompts(PROMPTS, sizes)
        calls()
        family.decode(noise)

    for eta in (0.0, 0.2):
        own = Sampling(steps=4, eta=eta, clip_x0=1 if eta else 0)
        whole, alone = medians(rounds, lambda own=own: draw(family, PROMPTS, SEEDS, own, size=SIZE), bare)
        print(
            f"eta {eta:g}: drawing {whole * 1e3:.1f} ms, its networks alone {alone * 1e3:.1f} ms: "
            f"{whole / alone:.3f}"
        )
    text, unet, vae = medians(
        rounds, lambda: family.encode_prompts(PROMPTS, sizes), calls, lambda: family.decode(noise)
    )
    print(
        f"of which prompts {text * 1e3:.1f} ms, four UNet calls {unet * 1e3:.1f} ms, "
        f"decoding {vae * 1e3:.1f} ms"
    )


def scheduler(rounds: int) -> None:
    """TDDScheduler.step against diffusers' TCDScheduler.step, eight steps of each."""
    for shape in ((1, 4, 16, 16), (16, 4, 16, 16), (1, 4, 128, 128)):
        for eta in (0.0, 0.3):
            ours, theirs = TDDScheduler(), TCDScheduler(original_inference_steps=250)
            x, pred = torch.randn(2, *shape)

            def steps(one: TDDScheduler | TCDScheduler, x=x, pred=pred, eta=eta) -> None:
                generator = torch.Generator().manual_seed(0)
                for _ in range(20):  # pictures: clocks of CPU time are coarse
                    one.set_timesteps(8)
                    for t in one.timesteps:
                        one.step(pred, t, x, eta=eta, generator=generator)

            mine, other = medians(
                rounds, lambda steps=steps, o=ours: steps(o), lambda steps=steps, o=theirs: steps(o)
            )
            print(
                f"{'x'.join(map(str, shape))}, eta {eta:g}: TDDScheduler {mine / 160 * 1e6:.0f} us a step, "
                f"TCDScheduler {other / 160 * 1e6:.0f} us: {mine / other:.2f}"
            )


def student(family: Family, teacher: Family, guidance: float, rounds: int) -> None:
    """The student at 4 steps against the guided teacher at 50, end to end."""
    fast, slow = Sampling(steps=4), Sampling(steps=50, guidance=guidance)
    quick, full = medians(
        rounds,
        lambda: draw(family, PROMPTS, SEEDS, fast, size=SIZE),
        lambda: draw(teacher, PROMPTS, SEEDS, slow, size=SIZE),
    )
    print(
        f"network calls {slow.calls} and {fast.calls}: {slow.calls / fast.calls:.0f} times fewer; "
        f"end to end {full:.2f} s and {quick:.3f} s for {BATCH} pictures: {full / quick:.1f} times faster"
    )


def main() -> None:
    """Parse, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=["engine", "scheduler", "student", []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    what = args.what or ["engine", "scheduler", "student"]
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}, medians of {args.rounds} interleaved runs")
    if "scheduler" in what:
        scheduler(args.rounds)
    inference, weights = bundled()
    if "engine" in what:
        engine(load(inference, weights), args.rounds)
    if "student" in what:
        teacher = load_family(inference.family, inference.model)
        scale = inference.teacher_guidance or GUIDANCE
        student(load(inference, weights), teacher, scale, max(args.rounds // 5, 2))


if __name__ == "__main__":
    main()
