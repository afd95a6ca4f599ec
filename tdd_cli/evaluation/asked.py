"""What was asked for, as typed, into what is measured: metrics, networks, settings, models, the teacher."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tdd_cli.errors import DataError, UsageError
from tdd_cli.evaluation.metrics import METRICS, check
from tdd_cli.evaluation.protocol import Rules
from tdd_cli.evaluation.subjects import Drawn, Model, Stored, Subject, image_folder
from tdd_cli.generate import Sampling
from tdd_cli.knobs import turn
from tdd_cli.recipe_keys import did_you_mean
from tdd_cli.student import find, settings


def metrics(text: str) -> list[str]:
    """The metrics named in "fid,kid"; UsageError for a name that is none."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in METRICS:
            raise UsageError(
                f"unknown metric {name!r}{did_you_mean(name, METRICS)}",
                hint=f"Metrics: {', '.join(METRICS)}.",
            )
    if not names:
        raise UsageError("no metric given", hint=f"Metrics: {', '.join(METRICS)}.")
    return names


def features(texts: Sequence[str], among: Sequence[str]) -> dict[str, str]:
    """Metric -> network, of "clip=DIR" for one metric and "DIR" for all that have a network."""
    seeing = [metric for metric in among if METRICS[metric].network]
    chosen: dict[str, str] = {}
    for text in texts:
        name, equals, model = text.partition("=")
        wanted, network = ([name], model) if equals else (seeing, text)
        problem = None
        if equals and name not in METRICS:
            problem = f"unknown metric {name!r} in --features {text}"
        elif not network:
            problem = f"--features {text} names no model"
        elif not wanted or not set(wanted) <= set(seeing):
            problem = f"--features {text} is for no metric that is measured here"
        if problem:
            raise UsageError(problem, hint="Write METRIC=MODEL, of a metric that looks at features.")
        chosen |= dict.fromkeys(wanted, network)
    return chosen


def check_set(among: Sequence[str], rules: Rules, axes: Mapping[str, str | None], *, drawing: bool) -> None:
    """DataError or UsageError where the set, or pictures that exist already, cannot serve what is asked."""
    known = rules.set.reference
    for metric in among:
        check(metric, rules.n, real=None if known is None else len(known.pictures))
    if "speed" in among and not drawing:
        raise UsageError("speed needs a model to draw with", hint="Leave it out, or name a model.")
    idle = next((axis for axis, text in axes.items() if text is not None), None)
    if idle and not drawing:
        raise UsageError(
            f"--{idle} is for a model that draws, and these pictures exist already",
            hint="Leave it out, or name a model.",
        )


def values(text: str | None) -> list[str | None]:
    """The values of "4-8", "1,1.5,2" or "4-6,8"; a single None where nothing was given."""
    if text is None:
        return [None]
    found: list[str | None] = []
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        first, last = (int(span[1]), int(span[2])) if span else (0, 0)
        if span and not first <= last < first + 1000:
            raise UsageError(f"the range {part} is empty or too long", hint="Write it rising: 4-8.")
        found += [str(i) for i in range(first, last + 1)] if span else [part]
    return found


def settings_of(sampling: Sampling, axes: Mapping[str, str | None]) -> Iterator[Sampling]:
    """Every combination of the axes' values, on top of a student's own settings; each is checked."""
    for chosen in itertools.product(*(values(text) for text in axes.values())):
        found = turn(sampling, dict(zip(axes, chosen, strict=True)))
        found.times()
        yield found


def models(
    runs: Sequence[Path], model: str | None, family: str, lora: Path | None, *, bundled: bool
) -> list[Model]:
    """The models to draw with; the bundled student where nothing is given and `bundled` allows it."""
    found = [Model(_name(run), *settings(run, None, family, None)) for run in runs]
    if model or lora:
        name = Path(model or "").name or model or ""
        parts = [name] if model else []
        if lora:  # adapter.safetensors is what every run calls it
            parts.append(lora.resolve().parent.name if lora.stem == "adapter" else lora.stem)
        found.append(Model(" + ".join(parts), *settings(None, model, family, lora)))
    if not found and bundled:
        found.append(Model("bundled student", *settings(None, None, family, None)))
    return found


def pictures(folder: Path, n: int | None) -> Stored:
    """A folder of pictures; DataError where it has fewer than n."""
    found = image_folder(folder)
    if n is not None and n > len(found.pictures):
        raise DataError(
            f"{folder} holds {len(found.pictures)} pictures, and {n} are asked for",
            hint="Draw the rest, or take fewer: --n.",
        )
    return found


def named(name: str) -> Model:
    """A model by one name: a run folder, a model's folder, file or hub id."""
    return Model(_name(Path(name)), *find(name))


def models_of(subjects: Sequence[Subject]) -> list[Model]:
    """The models that draw for some subjects, each once."""
    found = [subject.model for subject in subjects if isinstance(subject, Drawn)]
    return list({id(model): model for model in found}.values())


def drawn(model: Model, axes: Mapping[str, str | None], rules: Rules, batch: int) -> list[Drawn]:
    """A model under every combination of settings."""
    own = Sampling.of(model.inference)
    return [Drawn(model, sampling, rules, batch) for sampling in settings_of(own, axes)]


def teacher(among: Sequence[Model], rules: Rules, batch: int, *, steps: int, guidance: float | None) -> Drawn:
    """The model the students were distilled from, guided as it then was; UsageError where it is not clear."""
    bases = {model.inference.model for model in among}
    if len(bases) != 1:
        problem = "there is no model" if not bases else f"the models have {len(bases)} different teachers"
        raise UsageError(
            f"{problem}: the teacher is not known", hint="Measure one teacher's students at once."
        )
    inference = among[0].inference
    scale = guidance or next(filter(None, (model.inference.teacher_guidance for model in among)), None)
    if scale is None and inference.model == "bundled:emoji":
        from tdd_cli.bundled.emoji import GUIDANCE

        scale = GUIDANCE
    if scale is None:
        raise UsageError(
            "the teacher's guidance is not known", hint="Say at which scale: --teacher-guidance 7.5"
        )
    bare = inference.model_copy(update={"student": "lora", "method": "none"})
    return Drawn(Model("teacher", bare, None), Sampling(steps=steps, guidance=scale), rules, batch)


def _name(path: Path) -> str:
    return path.name or str(path)
