"""What the study found, as a page: plots, a sheet of samples, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tdd_cli.bundled.emoji.study.plan import METHODS, SHARES, Size, run_name
from tdd_cli.bundled.emoji.study.summary import Mean
from tdd_cli.bundled.emoji.study.tables import (
    ABLATION_TABLES,
    ROWS,
    STEPS,
    ablation_table,
    every_figure,
    mean_of,
    method_tables,
    rate_table,
    verdicts,
)
from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.plot import Line, Point, plot
from tdd_cli.evaluation.results import Result
from tdd_cli.files import write_atomic

PROMPTS = ("a fox", "a red apple", "a rocket", "a hamburger", "a castle", "an octopus")


def write_page(result: Result, size: Size, docs: Path, *, samples: bool = False) -> Path:
    """Write docs/study.md and its pictures in docs/images; returns the page's path."""
    parts = [_head(result, size)]
    for name, drawing in pictures(result, size):
        write_atomic(docs / "images" / f"study-{name}.svg", drawing)
        parts.append(f"![{name.replace('-', ' ')}](images/study-{name}.svg)\n")
    parts += ["![methods by steps, from the same noise](images/study-samples.png)\n"] * samples
    parts += ["## Methods\n", *method_tables(result), "## Asked\n", *verdicts(result)]
    for title, settings in ABLATION_TABLES.items():
        parts += [f"## {title}\n", ablation_table(result, *settings)]
    parts += ["## Learning rates, one seed, 4 steps\n", rate_table(result)]
    parts += ["Every measurement: [study.csv](study.csv).\n"]
    write_atomic(docs / "study.csv", every_figure(result))
    write_atomic(docs / "study.md", "\n".join(parts))
    return docs / "study.md"


def pictures(result: Result, size: Size) -> Iterator[tuple[str, str]]:
    """(name, SVG) of every plot."""
    for figure in ("fid", "distance"):
        yield f"{figure}-steps", _plot(result, figure, "steps", ROWS, STEPS, guidance=1.0)
        yield (
            f"{figure}-guidance",
            _plot(result, figure, "guidance", ["tdd", "no-empty"], range(1, 9), steps=4),
        )
        yield f"{figure}-budget", _budget_plot(result, figure, size)


def sheet(folder: Path, docs: Path) -> None:
    """Methods by steps from the same noise, drawn with the runs of the first seed."""
    from tdd_cli.generate import Sampling, generate
    from tdd_cli.pictures import grid, save_png
    from tdd_cli.student import load, settings

    rows: list[list[Image.Image]] = []
    labels = []
    for method in METHODS:
        inference, weights = settings(folder / "runs" / run_name(method, 0), None, "", None)
        family = load(inference, weights)
        for k in (4, 8):
            sampling = replace(Sampling.of(inference), steps=k)
            drawn = generate(family, list(PROMPTS), list(range(len(PROMPTS))), sampling, size=inference.size)
            rows.append([picture.image for picture in drawn])
            labels.append(f"{method}, {k} steps")
    save_png(grid(rows, labels, PROMPTS, cell=96), docs / "images" / "study-samples.png")


def _head(result: Result, size: Size) -> str:
    versions = result.environment.get("versions", {})
    return (
        f"# The study\n\nMade by `make study` ({result.created[:10]}; torch {versions.get('torch')}, tdd "
        f"{versions.get('tdd-cli')}): {size.steps} optimizer steps a run, {len(size.seeds)} seeds, mean and "
        f"standard deviation over them; {size.n:,} pictures each, protocol {result.protocol_sha256[:12]}, "
        f"features of the miniature's own network. Figures of other pages cannot be compared with these.\n"
    )


def _plot(
    result: Result, figure: str, axis: str, runs: Sequence[str], values: Sequence[int], **settings: Any
) -> str:
    lines = []
    for run in runs:
        found = [(x, mean_of(result, figure, run, **{**settings, axis: x})) for x in values]
        points = [_point(x, mean) for x, mean in found if mean]
        if points:
            lines.append(Line(run, points))
    teacher = next((entry for entry in result.entries if entry.baseline), None)
    if teacher and figure == "fid":
        lines.append(Line("teacher", [Point(0, teacher.figures["fid"].value)], level=True))
    title = COLUMNS[figure].title
    return plot(f"{title} against {axis}", axis, title, lines)


def _budget_plot(result: Result, figure: str, size: Size) -> str:
    lines = []
    for method in METHODS:
        budgets = [(size.steps // share, f"{method}-{share}th") for share in SHARES]
        budgets.append((size.steps, method))
        found = [(steps, mean_of(result, figure, name, steps=4, guidance=1.0)) for steps, name in budgets]
        points = [_point(steps, mean) for steps, mean in found if mean]
        if points:
            lines.append(Line(method, points))
    title = COLUMNS[figure].title
    return plot(f"{title} at 4 steps against the budget", "optimizer steps", title, lines)


def _point(x: float, mean: Mean) -> Point:
    return Point(x, mean.value, mean.value - mean.spread, mean.value + mean.spread)
