"""Results in words: names of subjects, settings, records, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tdd_cli.evaluation.metrics import COLUMNS
from tdd_cli.evaluation.protocol import record_hash
from tdd_cli.evaluation.results import Entry, Result

SETTINGS = {  # of Sampling: what a column is called; shown are steps, and those that differ between entries
    "steps": "steps",
    "guidance": "guidance",
    "eta": "eta",
    "schedule": "schedule",
    "clip_x0": "clip x0",
    "guidance_mode": "guidance mode",
    "grid": "grid",
}
OWN = ("grid",)  # a student's own, which nobody turns: a column only where one subject has several
HASHES = ("weights", "pictures_sha256", "model_files")  # of Subject.record(): what its pictures come from
OTHERWISE = "[measured otherwise]"  # after the labels of what --force put beside the rest
DIGITS = 6  # of a hash, to tell subjects of one name apart


def subject_key(entry: Entry) -> str:
    """Equal for entries of one subject, however it was sampled; others where it was measured otherwise."""
    return record_hash({"apart": entry.apart, **entry.source})


def label_of(entry: Entry, mark: Mapping[str, str]) -> str:
    """The label, with its mark of `marks`."""
    parts = [entry.label, mark[subject_key(entry)], OTHERWISE if entry.apart else ""]
    return " ".join(filter(None, parts))


def marks(entries: Iterable[Entry]) -> dict[str, str]:
    """subject_key -> the mark of its label, "" where no other subject has that label.

    It is the start of its weights', pictures' or model files' hash; of the record's, where those are equal.
    """
    named: dict[tuple[str, str], dict[str, str]] = {}  # (label, apart) -> subject_key -> hash
    for entry in entries:
        found = next(filter(None, map(entry.subject.get, HASHES)), subject_key(entry))
        named.setdefault((entry.label, entry.apart), {})[subject_key(entry)] = str(found)[:DIGITS]
    return {
        key: "" if len(group) == 1 else key[:DIGITS] if len(set(group.values())) < len(group) else mark
        for group in named.values()
        for key, mark in group.items()
    }


def settings_shown(result: Result) -> list[str]:
    """The sampling settings worth a column."""
    drawn = [entry for entry in result.entries if entry.sampling]
    return [name for name in SETTINGS if drawn and (name == "steps" or _differs(name, drawn))]


def settings_said(result: Result) -> str:
    """The settings without a column, in one line; "" where there are none."""
    drawn = [entry for entry in result.entries if entry.sampling]
    hidden = [name for name in SETTINGS if name not in settings_shown(result)]
    known = [name for name in hidden if any(entry.sampling.get(name) is not None for entry in drawn)]
    rows_meant = "All rows" if len(drawn) == len(result.entries) else "All rows that were drawn"
    return f"{rows_meant}: {', '.join(_said(name, drawn) for name in known)}" if known else ""


def _differs(name: str, drawn: Sequence[Entry]) -> bool:
    """Whether a setting has several values; one of the student's own: whether one subject has several."""
    owners = {subject_key(entry) if name in OWN else "" for entry in drawn}
    values = {
        (subject_key(entry) if name in OWN else "", setting(name, entry.sampling.get(name)))
        for entry in drawn
    }
    return len(values) > len(owners)


def _said(name: str, drawn: Sequence[Entry]) -> str:
    """A setting and its value: "grid 250", or "grid 250 (teacher), 50 (mine)" where subjects differ in it."""
    owners: dict[str, list[str]] = {}
    mark = marks(drawn)
    for entry in drawn:
        owners.setdefault(setting(name, entry.sampling.get(name)), []).append(label_of(entry, mark))
    if len(owners) == 1:
        return f"{SETTINGS[name]} {next(iter(owners))}"
    each = [f"{value or 'unknown'} ({', '.join(dict.fromkeys(who))})" for value, who in owners.items()]
    return f"{SETTINGS[name]} {', '.join(each)}"


def heading(name: str) -> str:
    """A figure's title, with the direction that is better."""
    arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[COLUMNS[name].better]
    return COLUMNS[name].title + arrow


def number(value: float, digits: int) -> str:
    """A value with `digits` after the point, more where that would leave nothing of it."""
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.2g}"


def setting(name: str, value: Any) -> str:
    """A sampling setting's value in words."""
    if name == "clip_x0" and isinstance(value, int):
        return "off" if value == 0 else "1 step" if value == 1 else f"{value} steps"
    return plain(value)


def plain(value: Any) -> str:
    """A setting's value; nothing for a subject that has none."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ",".join(plain(each) for each in value)
    return "" if value is None else str(value)


def words(value: Any) -> str:
    """Any value of a record to be read: mappings as "key value; key value" of what they have, else none."""
    if isinstance(value, Mapping):
        return "; ".join(_pair(key, each) for key, each in value.items() if each is not None) or "none"
    return plain(value) or "none"


def _pair(key: str, value: Any) -> str:
    said = f"({words(value)})" if isinstance(value, Mapping) else words(value)
    return said if key == "what" else f"{key.replace('_', ' ')} {said}"
