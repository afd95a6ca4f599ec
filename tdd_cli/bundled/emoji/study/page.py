"""What the study found, as a page: plots, a sheet of samples, and the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tdd_cli.bundled.emoji.study.plan import METHODS, SHARES, Size, run_name, spent
from tdd_cli.bundled.emoji.study.rows import Row
from tdd_cli.bundled.emoji.study.summary import Mean, mean_of, teacher_row
from tdd_cli.bundled.emoji.study.tables import (
    ABLATION_TABLES,
    LINES,
    STEPS,
    Sampled,
    ablation_table,
    method_tables,
    rate_table,
    verdicts,
)
from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.plot import Line, Point, plot
from tdd_cli.files import write_atomic

PROMPTS = ("a fox", "a red apple", "a rocket", "a hamburger", "a castle", "an octopus")
SHEET = "study-samples.png"
COLOURED = (*LINES, "teacher", "no-empty")  # each has one colour in all plots


def write_page(rows: Sequence[Row], size: Size, protocol: str, docs: Path) -> Path:
    """Write docs/study.md and its plots in docs/images; returns the page's path."""
    parts = [_head(rows, size, protocol)]
    for name, drawing in pictures(rows, size):
        write_atomic(docs / "images" / f"study-{name}.svg", drawing)
        parts.append(f"![{name.replace('-', ' ')}](images/study-{name}.svg)\n")
    if (docs / "images" / SHEET).is_file():
        parts.append(f"![methods by steps, from the same noise](images/{SHEET})\n")
    parts += ["## Methods\n", *method_tables(rows), "## Asked\n", *verdicts(rows)]
    for title, settings in ABLATION_TABLES.items():
        parts += [f"## {title}\n", ablation_table(rows, *settings)]
    parts += [f"## Learning rates, {size.steps // SHARES[-1]} optimizer steps, one seed, 4 steps\n"]
    parts += [rate_table(rows, size.seeds[0]), "Every measurement: [study.csv](study.csv).\n"]
    write_atomic(docs / "study.md", "\n".join(parts))
    return docs / "study.md"


def pictures(rows: Sequence[Row], size: Size) -> Iterator[tuple[str, str]]:
    """(name, SVG) of every plot that has two points to join."""
    wide = {
        "tdd": Sampled("tdd"),
        "no-empty": Sampled("no-empty", {"guidance_mode": "cfg"}),  # its own way is post
        "no-empty, post-tuned": Sampled("no-empty", {"guidance_mode": "post"}),
    }
    for figure in ("fid", "distance"):
        title = COLUMNS[figure].title
        plots = {  # name: (title, what the x axis is, lines)
            "steps": (
                f"{title} against steps", "steps",
                _lines(rows, figure, "steps", LINES, STEPS, guidance=1.0),
            ),
            "guidance": (
                f"{title} at 4 steps against guidance", "guidance",
                _lines(rows, figure, "guidance", wide, range(1, 9), steps=4),
            ),
            "budget": (
                f"{title} at 4 steps against the budget", "optimizer steps",
                _budgets(rows, figure, size),
            ),
        }  # fmt: skip
        for name, (heading, axis, lines) in plots.items():
            if any(len(line.points) > 1 for line in lines):
                drawn = [*lines, *_level(rows, figure)]
                yield f"{figure}-{name}", plot(heading, axis, title, drawn, known=COLOURED)


def sheet(folder: Path, docs: Path) -> None:
    """Methods by steps from the same noise, drawn with the runs of the first seed, where all are here."""
    from tdd_cli.generate import Sampling, generate
    from tdd_cli.pictures import grid, save_png
    from tdd_cli.student import load, settings

    runs = {title: folder / "runs" / run_name(line.run, 0) for title, line in LINES.items()}
    if not all((run / "adapter.safetensors").is_file() for run in runs.values()):
        return
    cells: list[list[Image.Image]] = []
    labels = []
    for title, run in runs.items():
        inference, weights = settings(run, None, "", None)
        family = load(inference, weights)
        for k in (4, 8):
            sampling = replace(Sampling.of(inference), steps=k, **LINES[title].settings)
            drawn = generate(family, list(PROMPTS), list(range(len(PROMPTS))), sampling, size=inference.size)
            cells.append([picture.image for picture in drawn])
            labels.append(f"{title}, {k} steps")
    drawn_all = grid(cells, labels, PROMPTS, cell=96).convert("RGB")
    few_colours = drawn_all.quantize(256, dither=Image.Dither.NONE)  # a third of the size, in the repository
    save_png(few_colours, docs / "images" / SHEET)


def _head(rows: Sequence[Row], size: Size, protocol: str) -> str:
    places = Counter((row.date, row.processor, row.torch) for row in rows)
    measured = "; ".join(
        f"{count} on {date} ({processor}, torch {torch})"
        for (date, processor, torch), count in sorted(places.items())
    )
    return (
        f"# The study\n\nMade by `make study`: {size.steps} optimizer steps a run, {len(size.seeds)} seeds, "
        f"mean and standard deviation over them; {size.n:,} pictures each, protocol {protocol}, features of "
        f"the miniature's own network. Figures of other pages cannot be compared with these. Measurements: "
        f"{measured}.\n"
    )


def _lines(
    rows: Sequence[Row],
    figure: str,
    axis: str,
    lines: Mapping[str, Sampled],
    values: Sequence[int],
    **settings: Any,
) -> list[Line]:
    """A figure of some runs over the values of one setting."""
    found = {
        title: [(x, mean_of(rows, figure, run, **{**settings, **own, axis: x})) for x in values]
        for title, (run, own) in lines.items()
    }
    return _joined(found)


def _budgets(rows: Sequence[Row], figure: str, size: Size) -> list[Line]:
    """A figure of the methods at 4 steps over what was spent on them."""
    found = {}
    for method in METHODS:
        names = [*(f"{method}-{share}th" for share in SHARES), method]
        found[method] = [
            (spent(name, size), mean_of(rows, figure, name, steps=4, guidance=1.0)) for name in names
        ]
    return _joined(found)


def _joined(found: Mapping[str, Sequence[tuple[int, Mean | None]]]) -> list[Line]:
    lines = [
        Line(name, [_point(x, mean) for x, mean in points if mean], group=name.partition(",")[0])
        for name, points in found.items()
    ]
    return [line for line in lines if line.points]


def _level(rows: Sequence[Row], figure: str) -> list[Line]:
    """The teacher's FID, as a level line."""
    teacher = teacher_row(rows)
    if teacher is None or figure != "fid":
        return []
    return [Line("teacher", [Point(0, teacher.figures["fid"])], level=True, group="teacher")]


def _point(x: float, mean: Mean) -> Point:
    return Point(x, mean.value, mean.value - mean.spread, mean.value + mean.spread)
