"""tdd sample: pictures from a run, from a model with adapters, or from the bundled student."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from tdd_cli.commands.request import MAX_SEED, Request

MODEL, HOW, FROM, SHOW, WORK = "What draws", "How", "Beyond text", "What is shown", "The work"


class Command(TyperCommand):
    """Lets --clip-x0 stand with or without its number of steps."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As typer's, after the number that was left out is put in."""
        return super().parse_args(ctx, list(_spelled_out(args)))


def _spelled_out(args: list[str]) -> Iterator[str]:
    for arg, following in pairwise([*args, ""]):
        yield arg
        if arg == "--clip-x0" and not re.fullmatch(r"\d+|on|off", following):
            yield "1"


def sample(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A text file with one prompt on each line.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", help="A picture of tdd sample: draw it again; options change it.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="A run of tdd distill.", show_default="the bundled student", rich_help_panel=MODEL
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A base model: a hub id, folder, .safetensors file or bundled:emoji.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            help="Of --model: sdxl or sd15.",
            show_default="as the model says",
            rich_help_panel=MODEL,
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="An adapter: the student, or a style beside it. Repeat.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-s", min=1, help="Sampling steps.", rich_help_panel=HOW)
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            "-g",
            metavar="SCALE",
            help="1 = off, half the network calls; 2,2,1,1 one a step; 2@1-2 on those steps only.",
            rich_help_panel=HOW,
        ),
    ] = None,
    guidance_mode: Annotated[
        str | None,
        typer.Option(
            "--guidance-mode",
            metavar="cfg|post",
            help="post: for students distilled without empty prompts.",
            rich_help_panel=HOW,
        ),
    ] = None,
    teacher_guidance: Annotated[
        float | None,
        typer.Option(
            "--teacher-guidance",
            min=1,
            max=100,
            help="Scale the student was distilled at, and --compare's teacher draws with.",
            rich_help_panel=HOW,
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(
            "--negative", help="What to lead away from; needs guidance above 1.", rich_help_panel=HOW
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="equal|early|T,T,...",
            help="early: the extra steps where the noise is.",
            rich_help_panel=HOW,
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            "--eta", min=0, max=1, help="Noise added back after each step, 0..1.", rich_help_panel=HOW
        ),
    ] = None,
    clip_x0: Annotated[
        str | None,
        typer.Option(
            "--clip-x0",
            metavar="[STEPS]",
            help="Clip the estimates of the first steps (1): less over-saturation.",
            rich_help_panel=HOW,
        ),
    ] = None,
    clip_ratio: Annotated[
        float | None,
        typer.Option("--clip-ratio", help="Quantile of an estimate that sets its cut.", rich_help_panel=HOW),
    ] = None,
    clip_low: Annotated[
        float | None, typer.Option("--clip-low", help="How far clean latents reach.", rich_help_panel=HOW)
    ] = None,
    clip_high: Annotated[
        float | None,
        typer.Option("--clip-high", help="Where an estimate is cut at the latest.", rich_help_panel=HOW),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also numbers of steps the student was not made for.", rich_help_panel=HOW
        ),
    ] = False,
    init: Annotated[
        Path | None, typer.Option("--init", help="A picture to start from.", rich_help_panel=FROM)
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength", min=0, max=1, help="Share of the steps that redraw it. [1]", rich_help_panel=FROM
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="White where --init is redrawn, black where kept.", rich_help_panel=FROM),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="TYPE:IMAGE[:SCALE]",
            help="A ControlNet (canny, depth, a folder) and its map. Repeat.",
            rich_help_panel=FROM,
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also one picture of all.", rich_help_panel=SHOW)
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="teacher,4,6,8",
            help="One labelled picture of these, same seeds.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="SETTING=V,V,...",
            help="One labelled picture of these values. Repeat: the next in rows.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each file.", rich_help_panel=SHOW)
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the pictures.", rich_help_panel=SHOW)
    ] = Path("samples"),
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, help="Seed of the first picture. [0]", rich_help_panel=WORK
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", "-n", min=1, help="Pictures for each prompt.", rich_help_panel=WORK)
    ] = 1,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WIDTH[xHEIGHT]", help="In pixels.", rich_help_panel=WORK),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            "--batch", help="Pictures drawn together; auto halves on out of memory.", rich_help_panel=WORK
        ),
    ] = "auto",
    offload: Annotated[
        bool, typer.Option("--offload", help="Parts take turns on the GPU.", rich_help_panel=WORK)
    ] = False,
    vae_tiling: Annotated[
        bool, typer.Option("--vae-tiling", help="Decode large pictures in tiles.", rich_help_panel=WORK)
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network: slow to start, fast for many pictures.",
            rich_help_panel=WORK,
        ),
    ] = False,
) -> None:
    """Draw pictures in a few steps.

    Examples:
      tdd sample "a fox" --steps 4 --clip-x0

      tdd sample "a fox" "a red apple" --n 4 --run runs/emoji-4to8-20260101-120000

      tdd sample "a fox" "a rocket" --compare teacher,4,6,8

      tdd sample "a fox" --sweep guidance=1,2,4,8 --sweep clip-x0=off,on
    """
    from tdd_cli.commands.drawing import carry_out

    knobs = {
        "steps": steps, "guidance": guidance, "guidance-mode": guidance_mode, "schedule": schedule,
        "teacher-guidance": teacher_guidance, "negative": negative, "eta": eta, "clip-x0": clip_x0,
        "clip-ratio": clip_ratio, "clip-low": clip_low, "clip-high": clip_high, "strength": strength,
    }  # fmt: skip
    carry_out(
        Request(
            prompts=tuple(prompts or ()), file=file, like=like, run=run, model=model, family=family,
            loras=tuple(lora or ()), knobs=knobs, force=force, init=init, mask=mask,
            controls=tuple(control or ()), grid=grid, compare=compare, sweeps=tuple(sweep or ()),
            as_json=as_json, out=out, seed=seed, n=n, size=size, batch=batch, offload=offload,
            tiled=vae_tiling, compiled=compiled,
        )
    )  # fmt: skip
