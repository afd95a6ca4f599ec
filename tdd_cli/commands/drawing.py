"""Carrying out `tdd sample`: load, draw, save; what was made on stdout, the rest on stderr."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tdd_cli.commands.request import Order, Request, understand
from tdd_cli.errors import OutOfMemory, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from tdd_cli.sampling import Sampling
    from tdd_cli.sheet import Sheet
    from tdd_cli.studio import Studio

BUNDLED_NOTE = "the bundled student (emoji, distilled with emoji-4to8); --run or --model choose another"


def carry_out(request: Request) -> None:
    """Draw what is asked for: single pictures, or a sheet of many ways of drawing them."""
    order = understand(request)
    sheet = plan_sheet(request, order)
    if request.bundled:
        typer.echo(BUNDLED_NOTE, err=True)
    with memory_hints():
        studio = open_it(request, order, sheet)
        _make_folder(request.out)
        if sheet is not None:
            draw_sheet(request, order, studio, sheet)
        else:
            draw_singly(request, order, studio)


def plan_sheet(request: Request, order: Order) -> Sheet | None:
    """The sheet of --compare and --sweep, checked; None where neither is asked for."""
    from tdd_cli.sheet import PLAIN, Sheet, compared, crossed, swept

    if not request.compare and not request.sweeps:
        return None
    if request.grid:
        raise UsageError("--grid is of single pictures", hint="--compare and --sweep make a picture anyway.")
    sweeps = [swept(text) for text in request.sweeps]
    columns = compared(request.compare) if request.compare else sweeps.pop(0)
    sheet = Sheet(order.making.sampling, columns, crossed(sweeps) if sweeps else (PLAIN,))
    sheet.cells()  # refuses what cannot be drawn
    return sheet


def open_it(request: Request, order: Order, sheet: Sheet | None) -> Studio:
    """The model, ready to draw. Its adapter stays apart only where the teacher is needed too."""
    from tdd_cli.studio import open_studio

    ways = [(order.making.sampling, False)] if sheet is None else sheet.ways()
    needed = any(by_teacher or sampling.guidance_mode == "post" for sampling, by_teacher in ways)
    return open_studio(
        order.making, batch=order.batch, with_teacher=needed,
        offloaded=request.offload, tiled=request.tiled, compiled=request.compiled,
    )  # fmt: skip


def draw_singly(request: Request, order: Order, studio: Studio) -> None:
    """A file for each picture, and with --grid one of all."""
    from tdd_cli.pictures import save_png

    sampling, making = order.making.sampling, order.making.describe()
    making["size"] = list(studio.size)
    drawn: list[Image.Image] = []
    began = time.perf_counter()
    with progress(len(order.prompts) * len(sampling.times())) as each_step:
        for picture in studio.pictures(order.prompts, order.seeds, sampling, each_step=each_step):
            path = _free(request.out, f"{_slug(picture.prompt)}-{picture.seed}")
            save_png(picture.image, path, {"prompt": picture.prompt, "seed": picture.seed, **making})
            drawn += [picture.image] if request.grid else []
            facts = {"seconds": round(picture.seconds, 4), "network_calls": sampling.calls}
            report(request, path, {"prompt": picture.prompt, "seed": picture.seed, **facts, **making})
    seconds = time.perf_counter() - began
    if request.grid:
        save_grid(request, order, drawn, making)
    count = len(order.prompts)
    typer.echo(
        f"{count} picture{'s' if count > 1 else ''}, {_said(sampling)}: "
        f"{sampling.calls} network call{'s' if sampling.calls > 1 else ''} each, {seconds:.2f} s in all",
        err=True,
    )


def save_grid(request: Request, order: Order, drawn: list[Image.Image], making: dict[str, Any]) -> None:
    """One picture of all: a row for each prompt, a column for each of its seeds."""
    from tdd_cli.pictures import grid, save_png
    from tdd_cli.sheet import cell_width

    rows = [drawn[i : i + request.n] for i in range(0, len(drawn), request.n)]
    labels = order.prompts[:: request.n]
    heads = [f"picture {i + 1}" for i in range(request.n)] if request.n > 1 else []
    note = f"{_said(order.making.sampling)}; seeds from {order.seeds[0]}"
    path = _free(request.out, "grid")
    save_png(grid(rows, labels, heads, note=note, cell=cell_width(drawn[0])), path, making)
    report(request, path, {"prompts": labels, "seeds": order.seeds, **making})


def draw_sheet(request: Request, order: Order, studio: Studio, sheet: Sheet) -> None:
    """The labelled picture of --compare or --sweep."""
    from tdd_cli.pictures import save_png

    ways = sheet.ways()
    timed: list[dict[str, Any]] = []
    name = "compare" if request.compare else "sweep"

    def pictures(sampling: Sampling, by_teacher: bool) -> Iterable[Image.Image]:
        began = time.perf_counter()
        found = studio.pictures(
            order.prompts, order.seeds, sampling, by_teacher=by_teacher, each_step=each_step
        )
        images = [picture.image for picture in found]
        seconds = (time.perf_counter() - began) / len(images)
        facts = {"by": "teacher" if by_teacher else "student", "network_calls": sampling.calls}
        timed.append({**facts, "seconds": round(seconds, 4), **asdict(sampling)})
        return images

    many = request.n > 1
    labels = [f"{p}, seed {s}" if many else p for p, s in zip(order.prompts, order.seeds, strict=True)]
    total = len(labels) * sum(len(sampling.times()) for sampling, _ in ways)
    common = f"the same noise in each row; seeds from {order.seeds[0]}"
    with progress(total) as each_step:
        image = sheet.draw(labels, pictures, title=_title(order), note=common)
    path = _free(request.out, name)
    save_png(image, path)
    facts = {"prompts": list(dict.fromkeys(order.prompts)), "seeds": order.seeds, "ways": timed}
    report(request, path, facts)
    typer.echo(f"{len(labels) * len(ways)} pictures drawn, in {len(ways)} ways", err=True)


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """Yields what is told of every step, or None where there is no terminal to show a line on."""
    from tdd_cli.progress import Meter

    if not sys.stderr.isatty():
        yield None
        return
    done = 0
    with Meter("drawing", total) as meter:

        def each_step(pictures: int) -> None:
            nonlocal done
            done += pictures
            meter.show(done, "steps")

        yield each_step


@contextmanager
def memory_hints() -> Iterator[None]:
    """Out of memory, said with what helps when sampling."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more'}",
            hint="--offload, --vae-tiling, --batch 1 or a smaller --size need less.",
        ) from None


def report(request: Request, path: Path, facts: dict[str, Any]) -> None:
    """Say on stdout that a file was made."""
    typer.echo(json.dumps({"path": str(path), **facts}) if request.as_json else str(path))


def _said(sampling: Sampling) -> str:
    """The settings that matter most, in words."""
    scale = sampling.guidance
    shown = ",".join(f"{one:g}" for one in scale) if isinstance(scale, tuple) else f"{scale:g}"
    count = len(sampling.times())
    words = [f"{count} step{'s' if count > 1 else ''}", f"guidance {shown}"]
    words += ["post-tuned"] if sampling.guidance_mode == "post" else []
    words += [f"eta {sampling.eta:g}"] if sampling.eta else []
    words += [f"x0 clipped in {sampling.clip_x0}"] if sampling.clip_x0 else []
    return ", ".join(words)


def _title(order: Order) -> str:
    """Whose pictures a sheet shows."""
    inference = order.making.source.inference
    student = "" if inference.method == "none" else f", student distilled with {inference.method.upper()}"
    return Path(inference.model).name + student


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
