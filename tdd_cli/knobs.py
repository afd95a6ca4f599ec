"""The sampling settings as they are typed: --steps 4, --guidance 2,2,1,1, --sweep clip-x0=off,on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tdd_cli.errors import UsageError
from tdd_cli.recipe_keys import did_you_mean
from tdd_cli.sampling import Sampling


def turn(sampling: Sampling, given: Mapping[str, object]) -> Sampling:
    """The settings with those given, by their names in KNOBS, read from text; None is not given.

    Raises UsageError for a name that is none and for values that are not understood.
    """
    for name in given:
        if name not in KNOBS:
            raise UsageError(
                f"unknown setting {name!r}{did_you_mean(name, KNOBS)}",
                hint=f"Settings: {', '.join(KNOBS)}.",
            )
    for name, read in KNOBS.items():  # in their order: a guidance range needs the steps
        value = given.get(name)
        if value is not None:
            try:
                sampling = replace(sampling, **read(str(value).strip(), sampling))
            except ValueError as problem:
                raise UsageError(f"--{name} {value}: {problem}") from None
    return sampling


def number(text: str, low: float, high: float) -> float:
    """A number within low..high."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not low <= value <= high:
        raise ValueError(f"must be {low:g}..{high:g}")
    return value


def whole(text: str, low: int, high: int) -> int:
    """A whole number within low..high."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(number(text, low, high))


def guidance(text: str, steps: int) -> float | tuple[float, ...]:
    """One scale "2", one for every step "2,2,1,1", or "2@1-2": one for steps 1 to 2, the others unguided."""
    if "," in text:
        return tuple(number(part.strip(), 0, 100) for part in text.split(","))
    scale, at, span = text.partition("@")
    if not at:
        return number(scale, 0, 100)
    first, _, last = span.partition("-")
    begin, end = whole(first, 1, steps), whole(last or first, 1, steps)
    if begin > end:
        raise ValueError("the range must rise")
    return tuple(number(scale, 0, 100) if begin <= i <= end else 1.0 for i in range(1, steps + 1))


def _steps(text: str, now: Sampling) -> dict[str, Any]:
    """A number of steps, which an explicit schedule of the settings so far gives way to."""
    kind = "equal" if isinstance(now.schedule, tuple) else now.schedule
    return {"steps": whole(text, 1, 1000), "schedule": kind}


def _schedule(text: str) -> dict[str, Any]:
    if text in ("equal", "early"):
        return {"schedule": text}
    if not text[:1].isdigit():
        raise ValueError("must be equal, early, or timesteps such as 999,751,499,251")
    times = tuple(whole(part.strip(), 0, 999) for part in text.split(","))
    return {"schedule": times, "steps": len(times)}


def _clip(text: str) -> int:
    return {"off": 0, "on": 1}.get(text) if text in ("off", "on") else whole(text, 0, 1000)  # type: ignore[return-value]


def _mode(text: str) -> str:
    if text not in ("cfg", "post"):
        raise ValueError("must be cfg or post")
    return text


KNOBS: dict[str, Callable[[str, Sampling], dict[str, Any]]] = {
    "steps": _steps,
    "schedule": lambda text, _: _schedule(text),
    "guidance": lambda text, now: {"guidance": guidance(text, now.steps)},
    "guidance-mode": lambda text, _: {"guidance_mode": _mode(text)},
    "teacher-guidance": lambda text, _: {"teacher_guidance": number(text, 1, 100)},
    "negative": lambda text, _: {"negative": text},
    "eta": lambda text, _: {"eta": number(text, 0, 1)},
    "clip-x0": lambda text, _: {"clip_x0": _clip(text)},
    "clip-low": lambda text, _: {"clip_low": number(text, 1e-6, 1e6)},
    "clip-high": lambda text, _: {"clip_high": number(text, 1e-6, 1e6)},
    "clip-ratio": lambda text, _: {"clip_ratio": number(text, 1e-6, 1)},
    "strength": lambda text, _: {"strength": number(text, 0, 1)},
}
"""Setting -> (its text, the settings so far) -> the fields of Sampling it sets."""
