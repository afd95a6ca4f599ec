"""eval.json: figures, and all it takes to say what they are and what they can be compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tdd_cli.errors import UsageError
from tdd_cli.evaluation.collect import samples
from tdd_cli.evaluation.metrics import COLUMNS, METRICS, Figure
from tdd_cli.evaluation.protocol import record_hash
from tdd_cli.files import write_atomic

FORMAT = 2
FILE, SHARDS = "eval.json", "shards"


@dataclass(frozen=True)
class Entry:
    """One subject and its figures."""

    label: str
    subject: Mapping[str, Any]  # Subject.record()
    n: int  # readable pictures
    unreadable: int
    figures: Mapping[str, Figure]
    reference_unreadable: int = 0  # of the set's real pictures, where it was compared with them
    baseline: bool = False
    apart: str = ""  # how it was measured otherwise than the result it stands in, where --force put it there
    shards: str = ""  # the folder of its shards, beside eval.json; "" where it was measured for another file
    samples: Mapping[int, Image.Image] = field(default_factory=dict, compare=False)  # by caption; not saved

    @property
    def key(self) -> str:
        """What identifies the subject."""
        return record_hash(self.subject)

    @property
    def source(self) -> dict[str, Any]:
        """What its pictures come from, however they were sampled."""
        return {key: value for key, value in self.subject.items() if key != "sampling"}

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Steps, guidance and so on; nothing for pictures that existed already."""
        return self.subject.get("sampling") or {}


@dataclass(frozen=True)
class Result:
    """Entries that were measured alike."""

    protocol: Mapping[str, Any]
    protocol_sha256: str
    remarks: Sequence[str]
    measures: Mapping[str, Mapping[str, Any]]  # metric -> what was computed, with which weights
    environments: Mapping[str, Mapping[str, Any]]  # what figures were measured on
    entries: Sequence[Entry]
    captions: Sequence[str] = field(default_factory=list)  # of the samples
    created: str = ""

    def columns(self) -> list[str]:
        """The figures that any entry has, in the order of tables."""
        return [name for name in COLUMNS if any(name in entry.figures for entry in self.entries)]

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        write_atomic(path, self.dumps() + "\n")

    def dumps(self) -> str:
        """As JSON."""
        entries = [
            {key: value for key, value in asdict(replace(entry, samples={})).items() if key != "samples"}
            for entry in self.entries
        ]
        known = {key: value for key, value in vars(self).items() if key != "entries"}
        return json.dumps({"format": FORMAT, **known, "entries": entries}, indent=2)

    @classmethod
    def load(cls, path: Path) -> Result:
        """What `save` wrote; UsageError for anything else."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("another version of tdd wrote it")
            entries = [
                Entry(
                    **{
                        **entry,
                        "figures": {name: Figure(**figure) for name, figure in entry["figures"].items()},
                    }
                )
                for entry in found.pop("entries")
            ]
            return cls(**found, entries=entries)
        except FileNotFoundError:
            raise UsageError(f"there is no file {path}", hint="tdd eval writes eval.json.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is not a result of tdd eval: {error}",
                hint="Give an eval.json that this version wrote; where an old one is in the way, move it.",
            ) from None


def check_alike(new: Result, old: Result, *, hint: str) -> None:
    """UsageError where two results were not measured alike."""
    problem = difference(new, old)
    if problem:
        raise UsageError(f"the results cannot be compared: {problem}", hint=hint)


def join(new: Result, old: Result, *, rebased: bool = False) -> Result:
    """The new result with the entries of an old one that was measured alike.

    A subject that is in both is the new one, with the figures of both. `rebased`: other baselines have been
    named; the old ones are then subjects like others, and those of other files go.
    """
    theirs = {entry.key: entry for entry in old.entries if entry.shards}
    measured = {entry.key for entry in new.entries}
    if rebased:
        kept = [replace(entry, baseline=False) for key, entry in theirs.items() if key not in measured]
    else:
        kept = [entry for entry in old.entries if entry.baseline or entry.key not in measured]
    fresh = [
        replace(entry, figures={**theirs[entry.key].figures, **entry.figures})
        if entry.key in theirs
        else entry
        for entry in new.entries
    ]
    return _with(replace(new, entries=fresh), kept, old)


def compared(new: Result, past: Result) -> Result:
    """The new result with a past one's entries as baselines; what was measured otherwise is marked so."""
    problem = difference(new, past) or ""
    baselines = [
        replace(entry, baseline=True, apart=entry.apart or problem, shards="") for entry in past.entries
    ]
    return _with(new, baselines, past)


def with_samples(result: Result, folder: Path) -> Result:
    """A result that was read back, with the small pictures that its folder keeps."""
    entries = [
        replace(entry, samples=samples(folder / SHARDS / entry.shards, result.protocol["n"]))
        for entry in result.entries
    ]
    return replace(result, entries=entries)


def _with(result: Result, entries: Sequence[Entry], of: Result) -> Result:
    """The result with further entries, and all that is known of how they were measured."""
    together = [*entries, *result.entries]
    used = {figure.environment for entry in together for figure in entry.figures.values()}
    places = {**of.environments, **result.environments}
    return replace(
        result,
        entries=together,
        measures={**of.measures, **result.measures},
        environments={key: place for key, place in places.items() if key in used},
    )


def difference(new: Result, old: Result) -> str | None:
    """What was not alike when two results were measured, None if they may be compared."""
    if new.protocol_sha256 != old.protocol_sha256:
        return f"their protocols differ in {_differing(new.protocol, old.protocol)}"
    for metric in sorted(set(new.measures) & set(old.measures)):
        if dict(new.measures[metric]) != dict(old.measures[metric]):
            return (
                f"{metric} was measured with another {_differing(new.measures[metric], old.measures[metric])}"
            )
    return None


def _differing(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The keys that two records differ in, with both values."""
    keys = [key for key in sorted(set(new) | set(old)) if new.get(key) != old.get(key)]
    return "; ".join(f"{key}: {_short(new.get(key))} / {_short(old.get(key))}" for key in keys)


def baseline_of(entry: Entry, entries: Iterable[Entry]) -> Entry | None:
    """The baseline, measured alike, of an entry: of its steps and guidance, else the first."""
    bases = [other for other in entries if other.baseline and not other.apart]
    if entry.baseline or not bases:
        return None
    wanted = [entry.sampling.get(key) for key in ("steps", "guidance")]
    same = [b for b in bases if [b.sampling.get(key) for key in ("steps", "guidance")] == wanted]
    return (same or bases)[0]


def best(name: str, entries: Sequence[Entry]) -> float | None:
    """The best value of a figure among entries; None where there is nothing to choose."""
    values = [entry.figures[name].value for entry in entries if name in entry.figures]
    better = COLUMNS[name].better
    if len(values) < 2 or better == "neither":
        return None
    return min(values) if better == "lower" else max(values)


def measures_of(
    metrics: Sequence[str], networks: Mapping[str, Any], teacher: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """What each metric computes, with which network and against which teacher, for the record.

    teacher  Subject.record() of the one whose pictures are compared with, if any
    """
    compared = {} if teacher is None else _teacher(teacher)
    return {
        name: {
            "what": METRICS[name].what,
            **(networks[name].record() if name in networks else {}),
            **(compared if METRICS[name].needs == "teacher" else {}),
        }
        for name in metrics
    }


def _teacher(record: Mapping[str, Any]) -> dict[str, Any]:
    """What its pictures depend on: another one makes other distances of the same students."""
    sampling = record["sampling"]
    return {
        "teacher": record["model"],
        "teacher_files": record["model_files"],
        "teacher_steps": sampling["steps"],
        "teacher_guidance": sampling["guidance"],
    }


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
