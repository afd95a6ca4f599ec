"""What a reader must know before comparing a figure with another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tdd_cli.evaluation.metrics import COLUMNS, METRICS
from tdd_cli.evaluation.protocol import EvalSet, Rules
from tdd_cli.evaluation.results import Entry

BIASED = ("fid", "fd-dinov2")  # Frechet distances fall as n grows
ENOUGH = 10_000  # pictures, for their bias to be small


def remarks(
    rules: Rules, measures: Mapping[str, Mapping[str, Any]], entries: Sequence[Entry] = ()
) -> list[str]:
    """All of them, of figures measured so; see results.measures_of."""
    of_all = (*_of_set(rules.set, measures), *_of_number(rules, measures))
    return [*_of_force(entries), *of_all, *_of_real(entries)]


def _of_force(entries: Sequence[Entry]) -> Iterator[str]:
    for apart in dict.fromkeys(entry.apart for entry in entries if entry.apart):
        labels = ", ".join(dict.fromkeys(entry.label for entry in entries if entry.apart == apart))
        yield f"Not comparable, shown together by --force: of {labels}, {apart}"


def _of_set(found: EvalSet, measures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    networks = {metric: str(measure.get("network")) for metric, measure in measures.items()}
    yield from found.notes
    yield from (each.what for each in found.published if networks.get(each.metric) == each.network)
    for metric in measures:
        usual = METRICS[metric].network
        if found.complete and usual and metric not in found.features and networks[metric] != usual:
            title = next(COLUMNS[name].title for name in METRICS[metric].columns)
            yield f"{title} is of the features of {networks[metric]}: comparable with no figure of others"


def _of_number(rules: Rules, measures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    n, full = rules.n, rules.set.n
    if n != full:
        yield f"{n:,} pictures instead of the protocol's {full:,}: compare at equal n only"
    if n < ENOUGH and any(metric in measures for metric in BIASED):
        yield f"n = {n:,}: FID is biased upwards below {ENOUGH:,} pictures; compare at equal n only"
    known, complete = rules.set.reference, rules.set.complete
    if known and complete and len(known.pictures) != complete:
        yield (
            f"{len(known.pictures):,} reference pictures instead of {complete:,}: not comparable with "
            f"published figures"
        )


def _of_real(entries: Sequence[Entry]) -> Iterator[str]:
    left_out = max((entry.reference_unreadable for entry in entries), default=0)
    if left_out:
        yield f"{left_out:,} of the set's own pictures could not be read, and are left out"
