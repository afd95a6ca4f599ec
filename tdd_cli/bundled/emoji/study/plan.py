"""The study's plan: training runs and measurements as `tdd` commands, each a task with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tdd_cli.recipe import load_recipe
from tdd_cli.run import Inference

METHODS = {"tdd": "emoji-4to8", "lcm": "emoji-lcm", "pcm": "emoji-pcm", "ctm": "emoji-ctm"}
ABLATIONS = {  # name: what differs from tdd's recipe
    "tdd-steps": ("target.candidates=steps",),  # Fig. 2a; with 4 steps alone these are pcm's targets
    "one-set": ("target.k_min=4", "target.k_max=4"),  # Fig. 4
    "no-empty": ("train.drop_text=0.0",),  # Fig. 5
    "eta-0.1": ("target.eta=0.1",),
    "eta-0.2": ("target.eta=0.2",),
    "eta-0.3": ("target.eta=0.3",),
}
STEPS = "4-8"
GUIDANCE = "0.75,1,1.25"  # among which each method's best is looked for
WIDE = "1-8"  # guidance of the ablations
SHARES = (4, 2)  # budgets of part 3: a half and a quarter of the whole
RATES = ("5e-5", "1.5e-4", "5e-4", "1.5e-3")  # learning rates of part 4
METRICS = "fid,kid,clip,teacher"
PARTS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Task:
    """One command of the study."""

    name: str
    part: int
    command: tuple[str, ...]  # what stands after `tdd`
    run: Path | None = None  # the run folder it makes, for training
    needs: tuple[str, ...] = ()  # tasks that come first


@dataclass(frozen=True)
class Size:
    """How much is spent on the study; the defaults take about three hours on two cores."""

    steps: int = 300  # optimizer steps of every run
    n: int = 384  # pictures of every measurement
    seeds: tuple[int, ...] = (0, 1, 2)
    teacher_steps: int = 50
    changes: tuple[str, ...] = ()  # of every recipe


def tasks(folder: Path, size: Size, parts: Sequence[int] = PARTS) -> list[Task]:
    """All tasks of some parts in an order in which each finds what it needs."""
    chosen = {1: methods, 2: ablations, 3: efficiency, 4: rates}
    found = [task for part in parts for task in chosen[part](folder, size)]
    return list({task.name: task for task in found}.values())


def methods(folder: Path, size: Size) -> Iterator[Task]:
    """Part 1: the four methods at 4..8 steps, each with its own sampler."""
    for method, recipe in METHODS.items():
        yield from _trainings(folder, size, method, recipe, part=1)
    for method in METHODS:
        more = ("--steps", STEPS, "--guidance", GUIDANCE)
        yield _measurement(folder, size, f"measure-{method}", [method], more, part=1)


def ablations(folder: Path, size: Size) -> Iterator[Task]:
    """Part 2: what each part of TDD is for."""
    for method, recipe in METHODS.items():
        yield from _trainings(folder, size, method, recipe, part=1)
    for name, changes in ABLATIONS.items():
        yield from _trainings(folder, size, name, METHODS["tdd"], changes, part=2)
    four = ("--steps", "4")
    etas = [name for name in ABLATIONS if name.startswith("eta-")]
    measured = {
        "measure-targets": (["tdd-steps", "one-set"], ("--steps", STEPS, "--guidance", GUIDANCE)),
        "measure-samplers": (["tdd-steps", *METHODS], ("--steps", "4,8", "--eta", "0,0.2")),
        "measure-empty": (["tdd", "no-empty"], (*four, "--guidance", WIDE, "--guidance-mode", "cfg")),
        "measure-post": (["no-empty"], (*four, "--guidance", WIDE, "--guidance-mode", "post")),
        "measure-eta": (["tdd", *etas], (*four, "--eta", "0,0.1,0.2,0.3")),
        "measure-early": (["tdd"], ("--steps", "5-7", "--schedule", "equal,early")),
        "measure-clip": (["tdd"], (*four, "--guidance", WIDE, "--clip-x0", "off,on")),
    }
    for name, (of, more) in measured.items():
        yield _measurement(folder, size, name, of, more, part=2)


def efficiency(folder: Path, size: Size) -> Iterator[Task]:
    """Part 3: quality against training pictures; each run with its whole learning-rate schedule."""
    for method, recipe in METHODS.items():
        names = [method]
        yield from _trainings(folder, size, method, recipe, part=1)
        for share in SHARES:
            name = f"{method}-{share}th"
            names.append(name)
            yield from _trainings(folder, size, name, recipe, part=3, steps=max(1, size.steps // share))
        yield _measurement(folder, size, f"measure-{method}-budgets", names, ("--steps", "4"), part=3)


def rates(folder: Path, size: Size) -> Iterator[Task]:
    """Part 4: the learning rates that the methods' recipes were chosen from, one seed."""
    one = replace(size, seeds=size.seeds[:1])
    names = []
    for method, recipe in METHODS.items():
        for rate in RATES:
            names.append(f"{method}-lr{rate}")
            yield from _trainings(folder, one, names[-1], recipe, (f"train.lr={rate}",), part=4)
    yield _measurement(folder, one, "measure-rates", names, ("--steps", "4"), part=4)


@cache
def own_sampler(name: str) -> Mapping[str, Any]:
    """How a run is sampled where a measurement does not say otherwise."""
    method = name.partition("-")[0]
    changes = ABLATIONS.get(name, ())
    recipe = load_recipe(METHODS["tdd" if changes else method], changes)
    kept = {"eta", "schedule", "clip_x0", "guidance_mode"}
    return Inference.of(recipe).model_dump(include=kept)


def run_name(name: str, seed: int) -> str:
    """The name of a run of one seed; `summary.seedless` takes it apart again."""
    return f"{name}-s{seed}"


def _trainings(
    folder: Path,
    size: Size,
    name: str,
    recipe: str,
    changes: Sequence[str] = (),
    *,
    part: int,
    steps: int | None = None,
) -> Iterator[Task]:
    """A run for every seed."""
    spent = steps or size.steps
    fixed = (f"train.steps={spent}", f"train.warmup={min(20, spent // 10)}", "preview.prompts=[]")
    for seed in size.seeds:
        run = folder / "runs" / run_name(name, seed)
        sets = [part for change in (*fixed, *changes, *size.changes) for part in ("--set", change)]
        command = ("distill", "--recipe", recipe, "--seed", str(seed), *sets, "--out", str(run))
        yield Task(run_name(name, seed), part, command, run)


def _measurement(
    folder: Path, size: Size, name: str, of: Sequence[str], more: Sequence[str], *, part: int
) -> Task:
    """Some runs of all seeds against the teacher, in one folder for all, so that it is drawn once."""
    names = [run_name(each, seed) for each in of for seed in size.seeds]
    runs = [str(folder / "runs" / each) for each in names]
    fixed = ("--set", "emoji", "--metric", METRICS, "--against", "teacher", "--n", str(size.n))
    teacher = ("--teacher-steps", str(size.teacher_steps), "--batch", "64", "--out", str(folder / "evals"))
    return Task(name, part, ("eval", *runs, *fixed, *more, *teacher), needs=tuple(names))
