"""The whole of an evaluation: real pictures, the teacher's, then one subject after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from tdd_cli.errors import DataError
from tdd_cli.evaluation.collect import SAMPLES, Evidence, Wanted, fill, gather
from tdd_cli.evaluation.environment import environment, environment_key
from tdd_cli.evaluation.metrics import METRICS, Case, check, check_network
from tdd_cli.evaluation.networks import Network, load_network
from tdd_cli.evaluation.protocol import EvalSet, Rules, record_hash, text_hash
from tdd_cli.evaluation.reference import Real
from tdd_cli.evaluation.remarks import remarks
from tdd_cli.evaluation.results import Entry, Result, measures_of
from tdd_cli.evaluation.subjects import Drawn, Subject
from tdd_cli.processes import PATIENCE, check_met
from tdd_cli.student import fastest


@dataclass(frozen=True)
class Progress:
    """How far a part of the work is."""

    part: int  # the number of the part
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Worker:
    """One of the processes that share an evaluation; the work of one process alone needs none of it."""

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Worker:
        """This process, under `accelerate launch` or by itself."""
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)
        check_met(state.num_processes, os.environ)
        return cls(state.process_index, state.num_processes)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def first(self) -> AbstractContextManager[None]:
        """A context that the others enter after the first process left it: they find what it downloaded."""
        if self.count == 1:
            return nullcontext()
        from accelerate import PartialState

        return PartialState().main_process_first()

    @property
    def place(self) -> tuple[int, int]:
        """(number, how many)."""
        return self.index, self.count


@dataclass(frozen=True)
class Plan:
    """What is to be measured, on what, against what."""

    rules: Rules
    subjects: Sequence[Subject]
    metrics: Sequence[str]
    networks: Mapping[str, Network]  # metric -> its network
    folder: Path  # of the shards
    teacher: Drawn | None = None  # whose pictures the metric teacher compares with
    baselines: Sequence[Subject] = ()  # measured too, and compared with
    pictures: Path | None = None  # where to save pictures

    @property
    def every(self) -> list[Subject]:
        """The baselines, then the subjects that are none."""
        compared = [base.record() for base in self.baselines]
        return [*self.baselines, *(each for each in self.subjects if each.record() not in compared)]


def choose_networks(
    metrics: Sequence[str],
    found: EvalSet,
    chosen: Mapping[str, str],
    *,
    device: torch.device | str = "cpu",
    inception: Path | None = None,
) -> dict[str, Network]:
    """The network of each metric that has one: the user's, the set's, or its own; each loaded once."""
    names = {
        metric: chosen.get(metric, found.features.get(metric, METRICS[metric].network)) for metric in metrics
    }
    loaded = {
        name: load_network(name, device, weights=inception) for name in dict.fromkeys(names.values()) if name
    }
    networks = {metric: loaded[name] for metric, name in names.items() if name}
    for metric, network in networks.items():
        check_network(metric, network)
    return networks


def evaluate(plan: Plan, worker: Worker) -> Iterator[Progress | Entry]:
    """Yields progress while pictures are made, and an entry for each subject; entries on process 0 only."""
    rules = plan.rules
    parts = itertools.count()

    def filled(what: str, filling: Iterator[int], total: int) -> Iterator[Progress]:
        part = next(parts)
        for done in filling:
            yield Progress(part, what, done, -(-total // worker.count))
        worker.wait()

    real = teacher = target = None
    against_real = _networks(plan, [name for name in plan.metrics if METRICS[name].needs == "real"])
    if against_real:
        real = Real(rules.set, against_real)
        yield from filled("real pictures", real.fill(worker.place), len(real.reference.pictures))
    if "teacher" in plan.metrics:
        assert plan.teacher is not None
        target = shards_of(plan.teacher, plan)
        wanted = Wanted([plan.networks["teacher"]], rules.set.side, pixels=True)
        filling = fill(plan.teacher, rules.n, wanted, target, worker=worker.place)
        yield from filled(plan.teacher.title, filling, rules.n)
        teacher = gather(rules.n, wanted, target) if worker.index == 0 else None
        plan.teacher.model.release()
    every = _networks(plan, plan.metrics)
    subjects = plan.every
    for subject, following in zip(subjects, [*subjects[1:], None], strict=True):
        save_to = plan.pictures and plan.pictures / f"{subject.label}-{record_hash(subject.record())[:8]}"
        timed = environment_key(place_of(subject)) if "speed" in plan.metrics else None
        wanted = Wanted(every, rules.set.side, target=target, timed=timed, save_to=save_to)
        folder = shards_of(subject, plan)
        filling = fill(subject, rules.n, wanted, folder, worker=worker.place)
        title = subject.title if isinstance(subject, Drawn) else subject.label
        yield from filled(title, filling, rules.n)
        if worker.index == 0:
            ours = gather(rules.n, wanted, folder, whose=subject.label)
            yield _entry(plan, subject, ours, real, teacher)
        if isinstance(subject, Drawn) and subject.model is not getattr(following, "model", None):
            subject.model.release()


def place_of(subject: Subject) -> dict[str, Any]:
    """The environment that its pictures are measured in."""
    return environment(subject.batch if isinstance(subject, Drawn) else None)


def result_of(plan: Plan, entries: Sequence[Entry]) -> Result:
    """The entries with the record of how they were measured."""
    rules, teacher = plan.rules, plan.teacher
    measures = measures_of(plan.metrics, plan.networks, teacher.record() if teacher else None)
    places = [place_of(subject) for subject in plan.every] if entries else []
    return Result(
        protocol=rules.record(),
        protocol_sha256=rules.sha256,
        remarks=remarks(rules, measures, entries),
        measures=measures,
        environments={environment_key(place): place for place in places},
        entries=list(entries),
        captions=list(rules.captions[:SAMPLES]),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def shards_of(subject: Subject, plan: Plan) -> Path:
    """The folder of a subject's shards: its name is whatever its pictures depend on, but for their number."""
    found = plan.rules.set
    key = record_hash(
        {
            "subject": dict(subject.record()),
            "set": [found.name, found.version, found.side, text_hash(found.captions)],
            "seed": plan.rules.seed,
            "device": fastest().type,
        }
    )
    return plan.folder / key[:24]


def _entry(
    plan: Plan, subject: Subject, ours: Evidence, real: Real | None, teacher: Evidence | None
) -> Entry:
    """The figures of a subject whose shards are there."""
    rules = plan.rules
    if real and rules.set.side is None and real.evidence.size != ours.size:
        (high, wide), (height, width) = ours.size, real.evidence.size
        raise DataError(
            f"{subject.label} has pictures of {wide} x {high}, the set has {width} x {height}",
            hint="Crop and resize both to one size: --resize N (pixels).",
        )
    calls = subject.sampling.calls if isinstance(subject, Drawn) else None
    figures: dict[str, Any] = {}
    for metric in plan.metrics:
        needs = METRICS[metric].needs
        readable = len(real.evidence.rows) if real and needs == "real" else None
        check(metric, len(ours.rows), real=readable, whose=subject.label)
        captions = [rules.set.prefix + caption for caption in rules.captions]
        case = Case(ours, captions, calls, plan.networks.get(metric), real, teacher)
        figures |= METRICS[metric].compute(case)
    place = environment_key(place_of(subject))
    return Entry(
        subject.label,
        subject.record(),
        len(ours.rows),
        ours.unreadable,
        {name: replace(figure, environment=place) for name, figure in figures.items()},
        reference_unreadable=real.evidence.unreadable if real else 0,
        baseline=any(subject is base for base in plan.baselines),
        shards=shards_of(subject, plan).name,
        samples=ours.samples,
    )


def _networks(plan: Plan, metrics: Sequence[str]) -> list[Network]:
    """The networks of some metrics, each once."""
    found = (plan.networks[metric] for metric in metrics if metric in plan.networks)
    return list({network.name: network for network in found}.values())
