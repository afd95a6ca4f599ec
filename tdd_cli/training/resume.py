"""Going on with a run: which one, and whether it is still asked for the same thing, on the same data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tdd_cli.errors import UsageError
from tdd_cli.files import write_atomic
from tdd_cli.recipe import Recipe, dump_recipe
from tdd_cli.run import RUNS, Run, recipe_hash, runs
from tdd_cli.training.origins import Origins
from tdd_cli.versions import versions


def unfinished(out: Path | None, name: str | None, root: Path = RUNS) -> Run | None:
    """The run that `--resume auto` means: the one at `out`, or a recipe's newest unfinished one."""
    if out is not None:
        return Run.open(out) if (out / "manifest.json").is_file() else None
    return next((run for run in runs(root) if _is_of(run, name) and not _is_done(run)), None)


def check_same(run: Run, asked: Recipe) -> None:
    """UsageError, with what differs, where the recipe asked for is not the run's own."""
    differing = list(differences(run.load_recipe(), asked))
    if differing:
        raise UsageError(
            f"{run.folder} was started with another recipe:\n" + "\n".join(differing),
            hint="Leave out --recipe and --set to go on as it was, or add --force to go on with these.",
        )


def take_recipe(run: Run, asked: Recipe) -> None:
    """Make the recipe asked for the run's own; the one before stays beside it."""
    if not list(differences(run.load_recipe(), asked)):
        return
    number = next(n for n in count(1) if not _before(run, n).exists())
    write_atomic(_before(run, number), run.recipe.read_bytes())
    write_atomic(run.recipe, dump_recipe(asked))
    amend(run, recipe_sha256=recipe_hash(asked), seed=asked.train.seed)


def _before(run: Run, number: int) -> Path:
    return run.recipe.with_name(f"recipe.before-{number}.yaml")


def settle_origins(run: Run, made_of: Origins, *, force: bool) -> None:
    """Note what the run is made from, or, if it was noted before, refuse with what is another: UsageError."""
    before = manifest(run).get("made_of") or made_of
    differing = [name for name in {**before, **made_of} if before.get(name) != made_of.get(name)]
    if differing and not force:
        raise UsageError(
            f"other than when {run.folder} was started: {', '.join(differing)}",
            hint="Put it back as it was, or add --force to go on with what there is now.",
        )
    amend(run, made_of=made_of)


def changed_versions(run: Run) -> list[str]:
    """What is installed in another version than when the run was started, in words."""
    before, now = manifest(run).get("versions") or {}, versions()
    return [f"{name} {before[name]} -> {now.get(name)}" for name in before if before[name] != now.get(name)]


def differences(before: Recipe, now: Recipe) -> Iterator[str]:
    """Each key that differs, as "  train.lr: 0.001 in the run, 0.0001 asked for"."""
    theirs, ours = dict(leaves(before.model_dump())), dict(leaves(now.model_dump()))
    for path in dict.fromkeys([*theirs, *ours]):
        if theirs.get(path, ...) != ours.get(path, ...):
            yield f"  {path}: {_shown(theirs, path)} in the run, {_shown(ours, path)} asked for"


def leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of nested sections, as ("train.lr", value)."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from leaves(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner


def _shown(leaves: dict[str, Any], path: str) -> str:
    return json.dumps(leaves[path]) if path in leaves else "not there"


def _is_of(run: Run, name: str | None) -> bool:
    return name is None or manifest(run).get("name") == name


def _is_done(run: Run) -> bool:
    """Whether a run has taken all of its steps and written its result."""
    last = max((record["step"] for record in run.records()), default=0)
    return run.finished and last >= run.load_recipe().train.steps


def manifest(run: Run) -> dict[str, Any]:
    """What a run's manifest says; nothing where it cannot be read."""
    try:
        found = json.loads(run.manifest.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def amend(run: Run, **changes: Any) -> None:
    """Write into a run's manifest what has changed, if anything has."""
    before = manifest(run)
    if {**before, **changes} != before:
        write_atomic(run.manifest, json.dumps({**before, **changes}, indent=2) + "\n")
