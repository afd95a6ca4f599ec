"""What the study found, as tables: means and spreads over seeds, and what was asked and met or not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tdd_cli.bundled.emoji.study.plan import METHODS, RATES
from tdd_cli.bundled.emoji.study.summary import Mean, ahead, best_guidance, over_seeds
from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.results import Result
from tdd_cli.recipe import load_recipe

STEPS = range(4, 9)
ROWS = ("tdd", "tdd-steps", "lcm", "pcm", "ctm")  # TDD by the published code's targets, and by figure 2a's
OTHERS = ("lcm", "pcm", "ctm")
FIGURES = ("fid", "kid", "clip", "distance")
NOT_YET = "Not measured yet."
WITHIN = 1.15  # asked: the student's FID at 4 steps, over the teacher's


def method_tables(result: Result) -> Iterator[str]:
    """For every figure: methods by steps, at guidance 1 and at the scale where the method does best."""
    for figure in FIGURES:
        lines = [f"| {COLUMNS[figure].title} | guidance | " + " | ".join(f"{k} steps" for k in STEPS) + " |"]
        lines.append("|---" * (2 + len(STEPS)) + "|")
        for method in ROWS:
            for scale in dict.fromkeys((1.0, best_guidance(result, figure, method, STEPS))):
                if scale is None:
                    continue
                means = [mean_of(result, figure, method, steps=k, guidance=scale) for k in STEPS]
                lines += _row(f"{method} | {scale:g}", means)
        teacher = next((entry for entry in result.entries if entry.baseline), None)
        if teacher and figure in teacher.figures and figure != "distance":
            lines.append(f"\nTeacher, {teacher.sampling['steps']} steps: {teacher.figures[figure].value:.3f}")
        yield "\n".join(lines) + "\n"


def verdicts(result: Result) -> Iterator[str]:
    """What was asked of TDD, met or not: ahead of the others at guidance 1, and each at its best."""
    head = "| ahead of LCM, PCM and CTM beyond the spread | | guidance | "
    lines = [head + " | ".join(f"{k} steps" for k in STEPS) + " |", "|---" * (3 + len(STEPS)) + "|"]
    for name in ("tdd", "tdd-steps"):
        for figure in ("fid", "distance"):
            best = {each: best_guidance(result, figure, each, STEPS) for each in (name, *OTHERS)}
            for title, scales in (("1", dict.fromkeys(best, 1.0)), ("each at its best", best)):
                shown = " | ".join(_standing(result, figure, name, scales, k) for k in STEPS)
                lines.append(f"| {name} | {COLUMNS[figure].title} | {title} | {shown} |")
    yield "\n".join(lines) + "\n"
    teacher = next((entry.figures["fid"].value for entry in result.entries if entry.baseline), None)
    scale = best_guidance(result, "fid", "tdd", [4])
    ours = mean_of(result, "fid", "tdd", steps=4, guidance=scale) if scale is not None else None
    if teacher and ours:
        ratio = ours.value / teacher
        yield (
            f"TDD's FID at 4 steps, guidance {scale:g}, over the teacher's: {ratio:.2f} (asked: {WITHIN}): "
            f"{_yes(ratio <= WITHIN)}\n"
        )


def _standing(result: Result, figure: str, name: str, scales: Mapping[str, float | None], steps: int) -> str:
    """Whether a method is ahead of the others at a number of steps; where not, of whom it is not."""
    means = {each: mean_of(result, figure, each, steps=steps, guidance=scales[each]) for each in scales}
    known = {each: mean for each, mean in means.items() if mean}
    if len(known) < len(means):
        return "-"
    behind = [each for each in OTHERS if not ahead(known[name], known[each], figure)]
    return "yes" if not behind else "not of " + ", ".join(behind)


ABLATION_TABLES: dict[str, tuple[str, Sequence[Any], Sequence[tuple[str, str, dict[str, Any]]]]] = {
    # title: (setting of the columns, its values, rows of (name, run, settings))
    "Targets of one schedule, or of 4 to 8 steps": (
        "steps", STEPS,
        [(name, run, {"guidance": 1.0}) for name, run in
         (("4..8, window", "tdd"), ("4 only, window", "one-set"), ("4..8, next of each", "tdd-steps"),
          ("4 only, next (PCM)", "pcm"))],
    ),
    "All methods with the deterministic sampler": (
        "steps", (4, 8), [(method, method, {"eta": 0.0, "guidance": 1.0}) for method in ROWS],
    ),
    "All methods with noise added back (eta 0.2)": (
        "steps", (4, 8), [(method, method, {"eta": 0.2, "guidance": 1.0}) for method in ROWS],
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
            means = [mean_of(result, figure, run, **{**settings, axis: value}) for value in values]
            lines += _row(f"{name} | {COLUMNS[figure].title}", means)
    return _table(lines)


def rate_table(result: Result) -> str:
    """Methods by learning rates, at 4 steps with each method's own sampler."""
    lines = ["| | | " + " | ".join(RATES) + " |", "|---" * (2 + len(RATES)) + "|"]
    for method, recipe in METHODS.items():
        own = f"{load_recipe(recipe).train.lr:g}"
        for figure in ("fid", "distance"):
            means = [mean_of(result, figure, f"{method}-lr{rate}", steps=4, guidance=1.0) for rate in RATES]
            lines += _row(f"{method} (its recipe: {own}) | {COLUMNS[figure].title}", means)
    return _table(lines)


def every_figure(result: Result) -> str:
    """All measurements as CSV, one line each."""
    settings = ("steps", "guidance", "guidance_mode", "eta", "schedule", "clip_x0")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("run", *settings, *FIGURES))
    for entry in result.entries:
        figures = [f"{entry.figures[name].value:.4f}" if name in entry.figures else "" for name in FIGURES]
        lines.writerow((entry.label, *(entry.sampling.get(key) for key in settings), *figures))
    return text.getvalue()


def mean_of(result: Result, figure: str, run: str, **settings: Any) -> Mean | None:
    """A run's figure at these settings; None where it was not measured."""
    return over_seeds(result.entries, figure, **settings).get(run)


def _row(start: str, means: Sequence[Mean | None]) -> list[str]:
    """A line of a table, or none where nothing of it was measured."""
    shown = " | ".join("-" if mean is None else str(mean) for mean in means)
    return [f"| {start} | {shown} |"] if any(means) else []


def _table(lines: Sequence[str]) -> str:
    """A table, or what stands in for one without rows."""
    return ("\n".join(lines) if len(lines) > 2 else NOT_YET) + "\n"


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"
