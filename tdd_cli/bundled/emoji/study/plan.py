"""The study's plan: training runs and measurements as `tdd` commands, each a task with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tdd_cli.evaluation.asked import settings_of
from tdd_cli.inference import Inference
from tdd_cli.recipe import Recipe, load_recipe
from tdd_cli.sampling import Sampling

METHODS = {"tdd": "emoji-4to8", "lcm": "emoji-lcm", "pcm": "emoji-pcm", "ctm": "emoji-ctm"}
ABLATIONS = {  # name: what differs from tdd's recipe
    "tdd-steps": ("target.candidates=steps",),  # Fig. 2a; with 4 steps alone these are pcm's targets
    "one-set": ("target.k_min=4", "target.k_max=4"),  # Fig. 4
    "no-empty": ("train.drop_text=0.0",),  # Fig. 5
    "far": ("target.eta=0.3", "target.reach=999"),  # all stops below instead of the nearest few
    "eta-0.5": ("target.eta=0.5",),
    "eta-0.3": ("target.eta=0.3",),
    "eta-0.2": ("target.eta=0.2",),
    "eta-0.1": ("target.eta=0.1",),
}
STEPS = "4-8"
GUIDANCE = "0.75,1,1.25"  # among which each method's best is looked for
WIDE = "1-8"  # guidance of the ablations
SHARES = (4, 2)  # budgets of part 3: a half and a quarter of the whole
RATES = ("5e-5", "1.5e-4", "5e-4", "1.5e-3")  # learning rates of part 4
NOISE = "far-lr3e-4"  # TDD trained for noise as part 5 finds best
CTM = "ctm-lr3e-4"  # CTM at the rate that part 5 finds best; its recipe's was chosen with half the budget
NOISY = {  # part 5: what is trained -> the run, of the two methods that are sampled with noise
    "TDD, eta 0.3, 1.5e-4": "eta-0.3-lr1.5e-4",
    "TDD, eta 0.3, 5e-4": "eta-0.3-lr5e-4",
    "TDD, eta 0.3, 1.5e-3": "eta-0.3",
    "TDD, eta 0.5, 3e-4": "eta-0.5-lr3e-4",
    "TDD, eta 0.5, 5e-4": "eta-0.5-lr5e-4",
    "TDD, eta 0.3, all stops below, 3e-4": NOISE,
    "TDD, eta 0.3, all stops below, 5e-4": "far-lr5e-4",
    "CTM, 1.5e-4": "ctm-lr1.5e-4",
    "CTM, 3e-4": CTM,
    "CTM, 5e-4": "ctm",
}
METRICS = "fid,kid,clip,teacher"
PARTS = (1, 2, 3, 4, 5)


class Point(NamedTuple):
    """A run under some sampling settings: what a row of figures is of."""

    run: str  # with its seed; "teacher"
    trained: int  # optimizer steps
    steps: int
    guidance: float
    guidance_mode: str
    eta: float
    schedule: str
    clip_x0: int


@dataclass(frozen=True)
class Task:
    """One command of the study."""

    name: str
    part: int
    command: tuple[str, ...]  # what stands after `tdd`
    run: Path | None = None  # the run folder it makes, for training
    needs: tuple[str, ...] = ()  # tasks that come first
    points: frozenset[Point] = frozenset()  # that a measurement gives figures of


@dataclass(frozen=True)
class Size:
    """How much is spent on the study; the defaults take six to eight hours on two cores."""

    steps: int = 300  # optimizer steps of every run
    n: int = 384  # pictures of every measurement
    seeds: tuple[int, ...] = (0, 1, 2)
    teacher_steps: int = 50
    changes: tuple[str, ...] = ()  # of every recipe


def tasks(folder: Path, size: Size, parts: Sequence[int] = PARTS) -> list[Task]:
    """All tasks of some parts in an order in which each finds what it needs."""
    chosen = {1: methods, 2: ablations, 3: efficiency, 4: rates, 5: noisy}
    found = [task for part in parts for task in chosen[part](folder, size)]
    return list({task.name: task for task in found}.values())


def methods(folder: Path, size: Size) -> Iterator[Task]:
    """Part 1: the four methods at 4..8 steps, each with its own sampler; TDD by figure 2a's targets too."""
    names = (*METHODS, "tdd-steps")
    for name in names:
        yield from _trainings(folder, size, name, part=1)
    for name in names:
        yield _measurement(folder, size, "methods", name, {"steps": STEPS, "guidance": GUIDANCE}, part=1)


def ablations(folder: Path, size: Size) -> Iterator[Task]:
    """Part 2: what each part of TDD is for."""
    wide = {"steps": "4", "guidance": WIDE}
    measured: list[tuple[str, Sequence[str], Mapping[str, str]]] = [
        ("empty", ["tdd", "no-empty"], {**wide, "guidance-mode": "cfg"}),
        ("post", ["no-empty"], {**wide, "guidance-mode": "post"}),
        ("clip", ["tdd"], {**wide, "clip-x0": "off,on"}),
        ("early", ["tdd"], {"steps": "5-7", "schedule": "equal,early"}),
        ("targets", ["one-set"], {"steps": STEPS}),
        ("samplers", [*METHODS, "tdd-steps"], {"steps": "4,8", "eta": "0,0.2"}),
        ("noise", ["eta-0.3-lr5e-4", NOISE, CTM], {"steps": STEPS, "guidance": GUIDANCE, "eta": "0.2"}),
        ("eta", ["tdd", "eta-0.3", "eta-0.2", "eta-0.1"], {"steps": "4", "eta": "0,0.1,0.2,0.3"}),
    ]
    for name in dict.fromkeys(name for _, names, _ in measured for name in names):
        yield from _trainings(folder, size, name, part=2)
    for what, names, axes in measured:
        for name in names:
            yield _measurement(folder, size, what, name, axes, part=2)


def efficiency(folder: Path, size: Size) -> Iterator[Task]:
    """Part 3: quality against training pictures; each run with its whole learning-rate schedule."""
    for method in METHODS:
        for name in (method, *(f"{method}-{share}th" for share in SHARES)):
            yield from _trainings(folder, size, name, part=3)
            yield _measurement(folder, size, "budgets", name, {"steps": "4"}, part=3)


def rates(folder: Path, size: Size) -> Iterator[Task]:
    """Part 4: the learning rates that the methods' recipes were chosen from, one seed, half the budget."""
    one = replace(size, seeds=size.seeds[:1])
    for method in METHODS:
        for name in rate_names(method).values():
            yield from _trainings(folder, one, name, part=4)
            yield _measurement(folder, one, "rates", name, {"steps": "4"}, part=4)


def noisy(folder: Path, size: Size) -> Iterator[Task]:
    """Part 5: TDD trained for noise, by learning rate and by how low its targets lie, and CTM; with noise."""
    for name in NOISY.values():
        yield from _trainings(folder, size, name, part=5)
        yield _measurement(folder, size, "noisy", name, {"steps": STEPS, "eta": "0.2"}, part=5)


def rate_names(method: str) -> dict[str, str]:
    """Learning rate -> the run with it in part 4; at the recipe's own rate it is one of part 3."""
    own = load_recipe(METHODS[method]).train.lr
    return {rate: f"{method}-2th" if float(rate) == own else f"{method}-2th-lr{rate}" for rate in RATES}


class Variant(NamedTuple):
    """What a run's name stands for."""

    recipe: str
    changes: tuple[str, ...]
    share: int  # of the budget: 1 over this

    def load(self) -> Recipe:
        """The recipe, but for what all runs of the study change."""
        return load_recipe(self.recipe, self.changes)


@cache
def variant(name: str) -> Variant:
    """The run of a name: a method or an ablation, perhaps a share and a rate, as in ctm-2th-lr5e-4."""
    base, _, rate = name.partition("-lr")
    start, _, end = base.rpartition("-")
    share = int(end[:-2]) if start and end.endswith("th") else 1
    base = start if share > 1 else base
    changes = ABLATIONS.get(base, ())
    recipe = METHODS["tdd" if changes else base]
    return Variant(recipe, (*changes, *([f"train.lr={rate}"] if rate else ())), share)


@cache
def own_sampler(name: str) -> Sampling:
    """How a run is sampled where a measurement does not say otherwise."""
    return Sampling.of(Inference.of(variant(name).load()))


def point(run: str, trained: int, sampling: Sampling) -> Point:
    """The point of a run under some settings."""
    assert isinstance(sampling.guidance, float)
    return Point(
        run, trained, sampling.steps, sampling.guidance, sampling.guidance_mode, sampling.eta,
        str(sampling.schedule), sampling.clip_x0,
    )  # fmt: skip


def spent(name: str, size: Size) -> int:
    """The optimizer steps of a run, by its name without the seed."""
    return max(1, size.steps // variant(name).share)


def run_name(name: str, seed: int) -> str:
    """The name of a run of one seed; `summary.seedless` takes it apart again."""
    return f"{name}-s{seed}"


def _trainings(folder: Path, size: Size, name: str, *, part: int) -> Iterator[Task]:
    """A run for every seed."""
    recipe, changes, _ = variant(name)
    steps = spent(name, size)
    fixed = (f"train.steps={steps}", f"train.warmup={min(20, steps // 10)}", "preview.prompts=[]")
    for seed in size.seeds:
        run = folder / "runs" / run_name(name, seed)
        sets = [part for change in (*fixed, *changes, *size.changes) for part in ("--set", change)]
        command = ("distill", "--recipe", recipe, "--seed", str(seed), *sets, "--out", str(run))
        yield Task(run_name(name, seed), part, command, run)


def _measurement(
    folder: Path, size: Size, what: str, name: str, axes: Mapping[str, str], *, part: int
) -> Task:
    """A run of all seeds against the teacher, in one folder for all, so that it is drawn once."""
    names = [run_name(name, seed) for seed in size.seeds]
    runs = [str(folder / "runs" / each) for each in names]
    fixed = ("--set", "emoji", "--metric", METRICS, "--against", "teacher", "--n", str(size.n))
    teacher = ("--teacher-steps", str(size.teacher_steps), "--batch", "64", "--out", str(folder / "evals"))
    more = [text for axis, values in axes.items() for text in (f"--{axis}", values)]
    settings = list(settings_of(own_sampler(name), axes))
    points = frozenset(point(run, spent(name, size), each) for run in names for each in settings)
    return Task(
        f"measure-{what}-{name}", part, ("eval", *runs, *fixed, *more, *teacher), needs=tuple(names),
        points=points,
    )  # fmt: skip
