"""tdd sample: pictures from a run, from a model with an adapter, or from the bundled student."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdd_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from tdd_cli.run import Inference

MAX_SEED = 2**63 - 1
BUNDLED_NOTE = "the bundled student (emoji, distilled with emoji-4to8); --run or --model choose another"


def sample(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A text file with one prompt on each line.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder of tdd distill. [default: the bundled student]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A hub id, folder, .safetensors file or bundled:emoji."),
    ] = None,
    family: Annotated[str, typer.Option("--family", help="The family of --model: sdxl or sd15.")] = "sdxl",
    lora: Annotated[Path | None, typer.Option("--lora", help="An adapter file for --model.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "-s", min=1, help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", "-g", min=0, help="Guidance scale, 1 = off and half the network calls."),
    ] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", min=0, max=1, help="Noise added back after each step, 0..1.")
    ] = None,
    clip_x0: Annotated[
        bool, typer.Option("--clip-x0", help="Clip the first step's estimate: less over-saturation.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of the first picture.")] = 0,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Pictures for each prompt.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures drawn together.")] = 16,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures.")] = Path("samples"),
) -> None:
    """Draw pictures in a few steps.

    Examples:
      tdd sample "a fox" --steps 4 --clip-x0

      tdd sample "a fox" "a red apple" --n 4 --run runs/emoji-4to8-20260101-120000
    """
    from tdd_cli.student import settings

    texts = _prompts(prompts, file)
    if run is None and model is None and lora is None:
        typer.echo(BUNDLED_NOTE, err=True)
    inference, adapter = settings(run, model, family, lora)
    changes = {"steps": steps, "guidance": guidance, "eta": eta, "clip_x0": 1 if clip_x0 else None}
    inference = inference.model_copy(update={k: v for k, v in changes.items() if v is not None})
    _draw(inference, adapter, [text for text in texts for _ in range(n)], seed=seed, batch=batch, out=out)


def _draw(
    inference: Inference, adapter: Path | None, prompts: list[str], *, seed: int, batch: int, out: Path
) -> None:
    """Load, draw, save; the paths on stdout, the rest on stderr."""
    from tdd_cli.generate import Sampling, generate
    from tdd_cli.pictures import save_png
    from tdd_cli.student import load

    sampling = Sampling.of(inference)
    sampling.times()  # refused here, before anything is loaded
    loaded = load(inference, adapter)
    seeds = [(seed + i) % (MAX_SEED + 1) for i in range(len(prompts))]
    _make_folder(out)
    side = inference.resolution
    size = None if side is None else (side, side)
    began = time.perf_counter()
    for picture in generate(loaded, prompts, seeds, sampling, size=size, batch=batch):
        path = _free(out, f"{_slug(picture.prompt)}-{picture.seed}")
        save_png(picture.image, path, _record(inference, adapter, picture.prompt, picture.seed))
        typer.echo(str(path))
    seconds = time.perf_counter() - began
    typer.echo(
        f"{len(prompts)} picture{'s' if len(prompts) > 1 else ''}, {sampling.steps} steps, guidance "
        f"{sampling.guidance:g}: {sampling.calls} network calls each, {seconds:.2f} s in all",
        err=True,
    )


def _prompts(prompts: list[str] | None, file: Path | None) -> list[str]:
    """The prompts given, those of the file after those of the command line."""
    texts = list(prompts or [])
    if file is not None:
        try:
            texts += [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{file}: the prompts cannot be read ({error})", hint="One prompt a line, UTF-8."
            ) from None
    texts = [text for text in texts if text.strip()]
    if texts:
        return texts
    if file is not None or prompts:
        raise DataError("there is no prompt that is not empty", hint="One prompt a line.")
    raise UsageError("no prompt given", hint='For instance: tdd sample "a fox"')


def _record(inference: Inference, adapter: Path | None, prompt: str, seed: int) -> dict[str, Any]:
    """What a picture's file remembers of its making."""
    weights = None if adapter is None else adapter.name
    return {"prompt": prompt, "seed": seed, "weights": weights, **inference.model_dump()}


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder {out} cannot be made: {error.strerror}", hint="Choose another --out."
        ) from None


def _slug(prompt: str) -> str:
    """A file name's beginning from a prompt."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "picture"


def _free(folder: Path, stem: str) -> Path:
    """folder/stem.png, or with a number added where that is taken."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path
