"""What the study found, as a page: tables, plots, a sheet of samples, and what was asked and met or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tdd_cli.bundled.emoji.study.plan import METHODS, SHARES, Size, run_name
from tdd_cli.bundled.emoji.study.summary import Mean, ahead, best_guidance, over_seeds
from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.plot import Line, Point, plot
from tdd_cli.evaluation.results import Result
from tdd_cli.files import write_atomic

STEPS = range(4, 9)
FIGURES = ("fid", "kid", "clip", "distance")
WITHIN = 1.15  # asked: the student's FID at 4 steps, over the teacher's
PROMPTS = ("a fox", "a red apple", "a rocket", "a hamburger", "a castle", "an octopus")


def write_page(result: Result, size: Size, docs: Path) -> Path:
    """Write docs/study.md and its pictures in docs/images; returns the page's path."""
    parts = [_head(result, size)]
    for name, drawing in pictures(result, size):
        write_atomic(docs / "images" / f"study-{name}.svg", drawing)
        parts.append(f"![{name.replace('-', ' ')}](images/study-{name}.svg)\n")
    parts += ["## Methods\n", *method_tables(result), "## Asked\n", *verdicts(result)]
    for title, settings in ABLATION_TABLES.items():
        parts += [f"## {title}\n", ablation_table(result, *settings)]
    write_atomic(docs / "study.md", "\n".join(parts))
    return docs / "study.md"


def pictures(result: Result, size: Size) -> Iterator[tuple[str, str]]:
    """(name, SVG) of every plot."""
    for figure in ("fid", "distance"):
        yield f"{figure}-steps", _plot(result, figure, "steps", list(METHODS), STEPS, guidance=1.0)
        yield (
            f"{figure}-guidance",
            _plot(result, figure, "guidance", ["tdd", "no-empty"], range(1, 9), steps=4),
        )
        yield f"{figure}-budget", _budget_plot(result, figure, size)


def method_tables(result: Result) -> Iterator[str]:
    """For every figure: methods by steps, unguided and at each method's best guidance."""
    for figure in FIGURES:
        lines = [f"| {COLUMNS[figure].title} | guidance | " + " | ".join(f"{k} steps" for k in STEPS) + " |"]
        lines.append("|---" * (2 + len(STEPS)) + "|")
        for method in METHODS:
            for scale in dict.fromkeys((1.0, best_guidance(result, method, list(STEPS)))):
                if scale is None:
                    continue
                means = [_of(result, figure, method, steps=k, guidance=scale) for k in STEPS]
                shown = " | ".join("-" if mean is None else str(mean) for mean in means)
                lines.append(f"| {method} | {scale:g} | {shown} |")
        teacher = next((entry for entry in result.entries if entry.baseline), None)
        if teacher and figure in teacher.figures:
            lines.append(f"\nTeacher, {teacher.sampling['steps']} steps: {teacher.figures[figure].value:.3f}")
        yield "\n".join(lines) + "\n"


def verdicts(result: Result) -> Iterator[str]:
    """What was asked of TDD, met or not."""
    for figure in ("fid", "distance"):
        for k in STEPS:
            means = over_seeds(result.entries, figure, steps=k, guidance=1.0)
            means = {name: mean for name, mean in means.items() if name in METHODS}
            if set(means) == set(METHODS):
                met = _yes(ahead(means, "tdd", figure))
                yield f"- {COLUMNS[figure].title}, {k} steps: TDD ahead beyond the spread: {met}"
    teacher = next((entry.figures["fid"].value for entry in result.entries if entry.baseline), None)
    scale = best_guidance(result, "tdd", [4])
    ours = _of(result, "fid", "tdd", steps=4, guidance=scale) if scale is not None else None
    if teacher and ours:
        ratio = ours.value / teacher
        yield f"- FID at 4 steps over the teacher's: {ratio:.2f} (asked: {WITHIN}): {_yes(ratio <= WITHIN)}\n"


ABLATION_TABLES: dict[str, tuple[str, Sequence[Any], Sequence[tuple[str, str, dict[str, Any]]]]] = {
    # title: (setting of the columns, its values, rows of (name, run, settings))
    "Targets of one schedule, or of 4 to 8 steps": (
        "steps", STEPS, [("4..8", "tdd", {"guidance": 1.0}), ("4 only", "one-set", {"guidance": 1.0})],
    ),
    "Empty prompts in training (*: scale counted from the unguided teacher)": (
        "guidance", [float(i) for i in range(1, 9)],
        [
            ("20 % empty", "tdd", {"steps": 4}),
            ("none", "no-empty", {"steps": 4, "guidance_mode": "cfg"}),
            ("none, post-tuned*", "no-empty", {"steps": 4, "guidance_mode": "post"}),
        ],
    ),
    "Noise added back (eta), in training and in sampling": (
        "eta", [0.0, 0.1, 0.2, 0.3],
        [
            (f"trained with {eta}", name, {"steps": 4, "guidance": 1.0})
            for eta, name in (("0", "tdd"), ("0.1", "eta-0.1"), ("0.2", "eta-0.2"), ("0.3", "eta-0.3"))
        ],
    ),
    "Early and equal schedules": (
        "steps", range(5, 8),
        [(kind, "tdd", {"schedule": kind, "guidance": 1.0}) for kind in ("equal", "early")],
    ),
    "x0 clipping": (
        "guidance", [float(i) for i in range(1, 9)],
        [("off", "tdd", {"steps": 4, "clip_x0": 0}), ("on", "tdd", {"steps": 4, "clip_x0": 1})],
    ),
}  # fmt: skip


def ablation_table(
    result: Result, axis: str, values: Sequence[Any], rows: Sequence[tuple[str, str, dict[str, Any]]]
) -> str:
    """FID and distance of some runs over the values of one setting."""
    lines = [f"| | {axis} | " + " | ".join(f"{value:g}" for value in values) + " |"]
    lines.append("|---" * (2 + len(values)) + "|")
    for name, run, settings in rows:
        for figure in ("fid", "distance"):
            means = [_of(result, figure, run, **{**settings, axis: value}) for value in values]
            shown = " | ".join("-" if mean is None else str(mean) for mean in means)
            lines.append(f"| {name} | {COLUMNS[figure].title} | {shown} |")
    return "\n".join(lines) + "\n"


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


def _of(result: Result, figure: str, run: str, **settings: Any) -> Mean | None:
    return over_seeds(result.entries, figure, **settings).get(run)


def _plot(
    result: Result, figure: str, axis: str, runs: Sequence[str], values: Sequence[int], **settings: Any
) -> str:
    lines = []
    for run in runs:
        found = [(x, _of(result, figure, run, **{**settings, axis: x})) for x in values]
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
        found = [(steps, _of(result, figure, name, steps=4, guidance=1.0)) for steps, name in budgets]
        points = [_point(steps, mean) for steps, mean in found if mean]
        if points:
            lines.append(Line(method, points))
    title = COLUMNS[figure].title
    return plot(f"{title} at 4 steps against the budget", "optimizer steps", title, lines)


def _point(x: float, mean: Mean) -> Point:
    return Point(x, mean.value, mean.value - mean.spread, mean.value + mean.spread)


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"
