"""What was typed after `tdd sample`, and what it comes to: prompts, seeds and a Making."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tdd_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from tdd_cli.record import Given, Making, Memory
    from tdd_cli.student import Adapter, Source

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Request:
    """The options of `tdd sample`, as typed."""

    prompts: tuple[str, ...]
    file: Path | None
    like: Path | None
    run: Path | None
    model: str | None
    family: str | None
    loras: tuple[str, ...]
    knobs: Mapping[str, object]
    force: bool
    init: Path | None
    mask: Path | None
    controls: tuple[str, ...]
    grid: bool
    compare: str | None
    sweeps: tuple[str, ...]
    as_json: bool
    out: Path
    seed: int | None
    n: int
    size: str | None
    batch: str
    offload: bool
    tiled: bool
    compiled: bool

    @property
    def bundled(self) -> bool:
        """Whether nothing says what draws."""
        return self.run is None and self.model is None and not self.loras and self.like is None


@dataclass(frozen=True)
class Order:
    """A request understood: every picture, and all that it depends on."""

    making: Making
    prompts: list[str]  # one for each picture
    seeds: list[int]
    batch: int | Literal["auto"]


def understand(request: Request) -> Order:
    """Everything about a request that can be refused before anything is loaded, is."""
    from tdd_cli.knobs import turn
    from tdd_cli.record import Making, read
    from tdd_cli.sampling import Sampling
    from tdd_cli.student import Source, bundled
    from tdd_cli.studio import check_given

    named = name_source(request)
    memory = None if request.like is None else read(request.like, named)
    texts = read_prompts(request, memory)
    source = named or (memory.making.source if memory is not None else Source(*bundled()))
    own = Sampling.of(source.inference) if memory is None else memory.making.sampling
    sampling = turn(own, request.knobs)
    given = choose_given(request, memory)
    if sampling.strength < 1 and given.init is None:
        raise UsageError("--strength is of a given picture", hint="Give the picture: --init IMAGE")
    check_given(given)
    if not request.compare and not request.sweeps:  # a sheet is looked through on purpose
        sampling.check(force=request.force or source.inference.method == "none")
    size = source.inference.size if memory is None else memory.making.size
    if request.size is not None:
        size = parse_size(request.size)
    first = request.seed if request.seed is not None else (0 if memory is None else memory.seed)
    seeds = [(first + i) % (MAX_SEED + 1) for i in range(len(texts) * request.n)]
    prompts = [text for text in texts for _ in range(request.n)]
    making = Making(source, sampling, size, given)
    return Order(making, prompts, seeds, parse_batch(request.batch))


def read_prompts(request: Request, memory: Memory | None) -> list[str]:
    """The prompts given, those of the file after those of the command line; else those of --like."""
    texts, file = list(request.prompts), request.file
    if file is not None:
        try:
            texts += [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{file}: the prompts cannot be read ({error})", hint="One prompt a line, UTF-8."
            ) from None
    texts = [text for text in texts if text.strip()]
    if texts:
        return texts
    if file is not None or request.prompts:
        raise DataError("there is no prompt that is not empty", hint="One prompt a line.")
    if memory is not None:
        return [memory.prompt]
    raise UsageError("no prompt given", hint='For instance: tdd sample "a fox"')


def name_source(request: Request) -> Source | None:
    """What draws, where the options say so."""
    from tdd_cli.families.lora_file import check_lora_path
    from tdd_cli.student import family_of, source

    if request.run is None and request.model is None and not request.loras:
        return None
    loras = [parse_adapter(text) for text in request.loras]
    for lora in loras:
        check_lora_path(lora.path)
    family = request.family or ("sdxl" if request.model is None else family_of(Path(request.model)))
    return source(request.run, request.model, family, loras)


def choose_given(request: Request, memory: Memory | None) -> Given:
    """The pictures to start from and to be led by; those not given are those of --like."""
    from tdd_cli.record import Given

    found = Given() if memory is None else memory.making.given
    found = replace(found, init=request.init or found.init, mask=request.mask or found.mask)
    if request.controls:
        found = replace(found, controls=tuple(parse_control(text) for text in request.controls))
    return found


def parse_adapter(text: str) -> Adapter:
    """FILE or FILE:SCALE."""
    from tdd_cli.student import Adapter

    found = re.fullmatch(r"(?P<path>.+?)(:(?P<scale>-?\d*\.?\d+))?", text)
    if found is None:
        raise UsageError("--lora must be FILE or FILE:SCALE, got nothing")
    return Adapter(Path(found["path"]), float(found["scale"] or 1))


def parse_control(text: str) -> tuple[str, Path, float]:
    """TYPE:IMAGE or TYPE:IMAGE:SCALE."""
    found = re.fullmatch(r"(?P<kind>[^:]+):(?P<path>.+?)(:(?P<scale>\d*\.?\d+))?", text)
    if found is None:
        raise UsageError(
            f"--control must be TYPE:IMAGE, got {text!r}", hint="For instance: --control canny:edges.png"
        )
    return found["kind"], Path(found["path"]), float(found["scale"] or 1)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT", or of one number for both."""
    found = re.fullmatch(r"(?P<width>\d{1,5})(x(?P<height>\d{1,5}))?", text.lower())
    if found is None:
        raise UsageError(f"--size must be WIDTH or WIDTHxHEIGHT in pixels, got {text!r}")
    return int(found["height"] or found["width"]), int(found["width"])


def parse_batch(text: str) -> int | Literal["auto"]:
    """A number of pictures, or "auto"."""
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch must be auto or a number of at least 1, got {text!r}")
    return int(text)
