"""What the study found, as a page: plots, a sheet of samples, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """(name, SVG) of every plot that has two points to join."""
    for figure in ("fid", "distance"):
        title = COLUMNS[figure].title
        plots = {  # name: (title, what the x axis is, lines)
            "steps": (
                f"{title} against steps", "steps",
                _lines(result, figure, "steps", ROWS, STEPS, guidance=1.0),
            ),
            "guidance": (
                f"{title} at 4 steps against guidance", "guidance",
                _lines(result, figure, "guidance", ["tdd", "no-empty"], range(1, 9), steps=4),
            ),
            "budget": (
                f"{title} at 4 steps against the budget", "optimizer steps",
                _budgets(result, figure, size),
            ),
        }  # fmt: skip
        for name, (heading, axis, lines) in plots.items():
            if any(len(line.points) > 1 for line in lines):
                yield f"{figure}-{name}", plot(heading, axis, title, [*lines, *_level(result, figure)])


def sheet(folder: Path, docs: Path) -> None:
    """Methods by steps from the same noise, drawn with the runs of the first seed."""
    from tdd_cli.generate import Sampling, generate
    from tdd_cli.pictures import grid, save_png
    from tdd_cli.student import load, settings

    rows: list[list[Image.Image]] = []
    labels = []
    for method in ROWS:
        if not (run := folder / "runs" / run_name(method, 0)).is_dir():
            continue
        inference, weights = settings(run, None, "", None)
        family = load(inference, weights)
        for k in (4, 8):
            sampling = replace(Sampling.of(inference), steps=k)
            drawn = generate(family, list(PROMPTS), list(range(len(PROMPTS))), sampling, size=inference.size)
            rows.append([picture.image for picture in drawn])
            labels.append(f"{method}, {k} steps")
    drawn_all = grid(rows, labels, PROMPTS, cell=96).convert("RGB")
    few_colours = drawn_all.quantize(256, dither=Image.Dither.NONE)  # a third of the size, in the repository
    save_png(few_colours, docs / "images" / "study-samples.png")


def _head(result: Result, size: Size) -> str:
    versions = result.environment.get("versions", {})
    return (
        f"# The study\n\nMade by `make study` ({result.created[:10]}; torch {versions.get('torch')}, tdd "
        f"{versions.get('tdd-cli')}): {size.steps} optimizer steps a run, {len(size.seeds)} seeds, mean and "
        f"standard deviation over them; {size.n:,} pictures each, protocol {result.protocol_sha256[:12]}, "
        f"features of the miniature's own network. Figures of other pages cannot be compared with these.\n"
    )


def _lines(
    result: Result, figure: str, axis: str, runs: Sequence[str], values: Sequence[int], **settings: Any
) -> list[Line]:
    """A figure of some runs over the values of one setting."""
    found = {
        run: [(x, mean_of(result, figure, run, **{**settings, axis: x})) for x in values] for run in runs
    }
    return _joined(found)


def _budgets(result: Result, figure: str, size: Size) -> list[Line]:
    """A figure of the methods at 4 steps over what was spent on them."""
    found = {}
    for method in METHODS:
        names = {size.steps // share: f"{method}-{share}th" for share in SHARES} | {size.steps: method}
        found[method] = [
            (x, mean_of(result, figure, name, steps=4, guidance=1.0)) for x, name in names.items()
        ]
    return _joined(found)


def _joined(found: Mapping[str, Sequence[tuple[int, Mean | None]]]) -> list[Line]:
    lines = [Line(name, [_point(x, mean) for x, mean in points if mean]) for name, points in found.items()]
    return [line for line in lines if line.points]


def _level(result: Result, figure: str) -> list[Line]:
    """The teacher's FID, as a level line."""
    teacher = next((entry for entry in result.entries if entry.baseline), None)
    if teacher is None or figure != "fid":
        return []
    return [Line("teacher", [Point(0, teacher.figures["fid"].value)], level=True)]


def _point(x: float, mean: Mean) -> Point:
    return Point(x, mean.value, mean.value - mean.spread, mean.value + mean.spread)
