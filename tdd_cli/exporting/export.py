"""From a student in memory to a folder that other programs load, complete and tried, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from tdd_cli.errors import TddError
from tdd_cli.exporting.card import Exported, card
from tdd_cli.exporting.compress import compress
from tdd_cli.exporting.formats import CONFIG, EXPORTERS, Format, held
from tdd_cli.exporting.metadata import metadata
from tdd_cli.exporting.pictures import sheet
from tdd_cli.families import load_family
from tdd_cli.families.base import Family
from tdd_cli.families.loading import open_part
from tdd_cli.families.lora import folded_state, load_lora
from tdd_cli.families.reload import ROUNDING, Reload, compare, trial
from tdd_cli.families.styles import fuse_style
from tdd_cli.files import replacing, write_atomic
from tdd_cli.inference import Inference
from tdd_cli.pictures import save_png
from tdd_cli.student import fastest, made_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHEET = "samples.png"


@dataclass(frozen=True)
class Written:
    """What was written, and what came of loading it."""

    weights: Path  # the file, or the folder of a whole pipeline
    reload: Reload


def open_student(
    inference: Inference, weights: Path, *, scale: float = 1.0, alpha: float | None = None
) -> Family:
    """The base model with the student's weights, float32 and on the CPU: exports are the same everywhere.

    scale, alpha: of an adapter; see `load_lora`.
    """
    family = load_family(inference.family, inference.model, config=inference.config)
    for style in made_of(inference, weights):
        fuse_style(family, style.path, style.scale)
    if inference.student == "full":
        family.net = open_part(weights, type(family.net).__name__, dtype=torch.float32)
        family.net.eval().requires_grad_(False)
    else:
        load_lora(family.net, weights, scale=scale, alpha=alpha, prefix=family.lora_prefix)
    return family


def shrink(family: Family, rank: int) -> float:
    """Put an adapter of a lower rank in the place of the family's; its relative error."""
    state, error = compress(folded_state(family.net), rank)
    family.net.unload_lora()  # type: ignore[operator]
    load_lora(family.net, state, prefix=family.lora_prefix)
    return error


def write_student(
    family: Family,
    inference: Inference,
    folder: Path,
    *,
    kind: str,
    dtype: torch.dtype = torch.float32,
    prompts: Sequence[str] = (),
    scores: str = "",
) -> Written:
    """Write a student to `folder`: weights, inference.json, README.md and, with prompts, sample pictures.

    kind     one of EXPORTERS
    prompts  of the pictures, which are drawn with what was read back
    scores   an evaluation's table, for the card

    Raises TddError, with nothing left behind, where the file does not compute what was trained, or cannot be
    written. The family is used up.
    """
    form = EXPORTERS[kind]
    file = f"{folder.name}.safetensors" if form.file else None
    settings = _of_adapter(inference) if form.adapter else _of_model(inference, file or folder.name)
    ours = _predict(family)
    with _writable(folder), replacing(folder) as beside:
        beside.mkdir()
        weights = beside / file if file else beside
        form.write(family, weights, dtype, metadata(family, settings, folder.name))
        fresh, reload = _read_back(form, family, weights, ours, dtype)
        settings.save(beside / "inference.json")
        if prompts:
            save_png(sheet(fresh.to(fastest()), settings, prompts), beside / SHEET)
        what = Exported(fresh, inference, file, form.adapter)
        text = card(what, title=folder.name, picture=SHEET if prompts else None, scores=scores)
        write_atomic(beside / "README.md", text)
        _let_others_read(beside)
    return Written(folder / file if file else folder, reload)


def _read_back(
    form: Format, family: Family, weights: Path, ours: Tensor, dtype: torch.dtype
) -> tuple[Family, Reload]:
    """What was written, loaded, and how it compares; TddError where it is not what was trained."""
    want = held(family, adapter=form.adapter)
    fresh = form.read(family, weights)
    got = held(fresh, adapter=form.adapter)
    reload = compare(want, got, ours, _predict(fresh), dtype=dtype, rounding=ROUNDING[dtype])
    if not reload.ok:
        raise TddError(
            f"the written file does not compute what was trained: modules {reload.matched}/{reload.total}, "
            f"max |delta| {reload.delta:.1e} where rounding makes {reload.allowed:.1e}; it is removed",
            hint="Do the weights hold values that are not finite, or too large for --dtype fp16? Try fp32.",
        )
    return fresh, reload


def _predict(family: Family) -> Tensor:
    with torch.no_grad():
        return trial(family)(family.net)


def _of_adapter(inference: Inference) -> Inference:
    """The settings of an adapter for others, who have the styles it goes with somewhere else."""
    styles = tuple((Path(file).name, scale) for file, scale in inference.styles)
    return inference.model_copy(update={"styles": styles})


def _of_model(inference: Inference, name: str) -> Inference:
    """The settings of a model that holds its student, and no teacher for guidance of mode post."""
    single = name.endswith(".safetensors")
    changes: dict[str, object] = {"model": name, "config": CONFIG if single else None}
    if inference.guidance_mode == "post":
        changes["guidance"] = inference.teacher_guidance
    changes["styles"] = ()  # they are in the weights
    return inference.model_copy(update=changes)


def _let_others_read(folder: Path) -> None:
    """Give files the rights new folders get here: safetensors writes them for their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Whatever the disk refuses, as a TddError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TddError(
            f"{folder} cannot be written: {error}",
            hint="Nothing is left behind. Is the disk full, or read-only? --out chooses another place.",
        ) from error
