"""A student: how it is sampled, where its weights are, and the family with them in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.inference import Inference
from tdd_cli.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tdd_cli.core.guidance import Cond, Network
    from tdd_cli.families.base import Family

BUNDLED = "bundled"
"""What `find` and the --like option call the bundled student."""


@dataclass(frozen=True)
class Adapter:
    """An adapter file and its strength."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Source:
    """What is drawn with: a base model, a student on it, and further adapters."""

    inference: Inference
    weights: Path | None  # the student's: an adapter file or a folder; None for a model as it is
    scale: float = 1.0  # of the student's adapter
    styles: tuple[Adapter, ...] = ()


def source(
    run: Path | None = None,
    model: str | None = None,
    family: str = "sdxl",
    loras: Sequence[Adapter] = (),
) -> Source:
    """What a run, a model and adapters come to; the bundled student where none is given.

    Of several adapters the student is the one that says how it is sampled, else the first; beside a run all
    of them are styles. Raises UsageError for what does not fit together.
    """
    if run is not None:
        inference, weights = settings(run, model, family, None)
        return Source(inference, weights, styles=(*made_of(inference, weights), *loras))
    ours = next((lora for lora in loras if described(lora.path)), loras[0] if loras else None)
    inference, weights = settings(None, model, family, ours.path if ours else None)
    styles = tuple(lora for lora in loras if lora is not ours)
    return Source(inference, weights, ours.scale if ours else 1.0, (*made_of(inference, weights), *styles))


def whole(inference: Inference, weights: Path | None) -> Source:
    """A student on all that its teacher was made of."""
    return Source(inference, weights, styles=made_of(inference, weights))


def made_of(inference: Inference, weights: Path | None) -> tuple[Adapter, ...]:
    """The adapters that made the student's teacher: it is put on a model that has them.

    Each is looked for where the settings say, then under its name beside the student's weights and here.
    """
    return tuple(Adapter(_style(Path(file).expanduser(), weights), scale) for file, scale in inference.styles)


def _style(file: Path, weights: Path | None) -> Path:
    places = [file, *([weights.with_name(file.name)] if weights else []), Path(file.name)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MissingComponent(
            f"this student is made for a model with the adapter {file.name}, which is not at {file}",
            hint="Put that file beside the student's weights, or here.",
        )
    return found


def settings(
    run: Path | None, model: str | None, family: str, lora: Path | None
) -> tuple[Inference, Path | None]:
    """(how to sample, the student's weights) of a run, a model and an adapter, or the bundled student.

    The weights are None for a model as it is. A model given beside a student takes the place of the base
    model it was trained on. Raises UsageError for what does not fit together.
    """
    if run is not None:
        found = Run.open(run)
        inference = Inference.load(found.inference)
        return on(
            inference, model
        ), found.adapter if inference.student == "lora" else found.folder / "student"
    if lora is not None:
        own = described(lora)
        if own is None and model is None:
            raise UsageError(
                f"{lora} has no inference.json beside it and names no model itself",
                hint="Say which model it is for: --model",
            )
        return on(own, model) if own else bare(str(model), family), lora
    if model is not None:
        return exported(model) or bare(model, family), None
    return bundled()


def find(model: str | Path) -> tuple[Inference, Path | None]:
    """As `settings`, of one name: a run folder, an adapter, "bundled", or a model's path or hub id."""
    path = Path(model).expanduser()
    if str(model) == BUNDLED:
        return bundled()
    if (path / "manifest.json").is_file():
        return settings(path, None, "", None)
    if path.suffix == ".safetensors" and path.is_file() and described(path):
        return settings(None, None, "", path)
    return exported(str(model)) or bare(str(model), family_of(path)), None


def family_of(folder: Path) -> str:
    """The family whose pipeline is in a diffusers folder; sdxl where it does not say."""
    from tdd_cli.families import FAMILIES, family_class

    try:
        pipeline = json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return "sdxl"
    return next((name for name in FAMILIES if family_class(name).parts.pipeline == pipeline), "sdxl")


def described(lora: Path) -> Inference | None:
    """How an adapter says it is sampled: by inference.json beside it, or its metadata; None without."""
    from tdd_cli.families.lora_file import SETTINGS, read_metadata

    beside = lora.with_name("inference.json")
    if beside.is_file():
        return Inference.load(beside)
    if not lora.is_file():
        return None
    try:
        return Inference.model_validate(json.loads(read_metadata(lora)[SETTINGS]))
    except (KeyError, ValueError):
        return None


def exported(model: str) -> Inference | None:
    """How tdd export's folder or single file says its student is sampled; None for another model."""
    path = Path(model).expanduser()
    folder = path if path.is_dir() else path.parent
    if not path.exists() or not (folder / "inference.json").is_file():
        return None
    own = Inference.load(folder / "inference.json")
    config = str(folder / own.config) if path.is_file() and own.config else None
    return own.model_copy(update={"model": model, "config": config})


def on(inference: Inference, model: str | None) -> Inference:
    """The same student on another base model of its family."""
    if model is None:
        return inference
    return inference.model_copy(update={"model": model, "config": None})


def bundled() -> tuple[Inference, Path]:
    """The bundled student's settings and weights."""
    from tdd_cli.bundled.emoji import STUDENT

    if not (STUDENT / "inference.json").is_file():
        raise MissingComponent(
            "the bundled student is not in this installation",
            hint="Install tdd-cli again, or use --run or --model.",
        )
    return Inference.load(STUDENT / "inference.json"), STUDENT / "adapter.safetensors"


def bare(model: str, family: str) -> Inference:
    """Default settings for a model given by name."""
    from tdd_cli.families import family_class

    family_class(family)
    return Inference(
        family=family, model=model, method="none", teacher_grid=250, k_min=4, k_max=8,
        steps=4, guidance=1.0, eta=0.0, schedule="equal", clip_x0=0,
    )  # fmt: skip


def load(inference: Inference, weights: Path | None) -> Family:
    """The family with the student's weights in place, on the fastest device at hand."""
    family, _ = load_with_teacher(whole(inference, weights))
    if weights is not None and inference.student == "lora":
        family.net.fuse_lora()  # type: ignore[operator]
    return family


def load_with_teacher(source: Source, device: torch.device | str | None = None) -> tuple[Family, Network]:
    """(the family with the student's weights in place, the network without them), styles in both.

    A student that is an adapter can be switched off, so it is not fused. `device`: None for the fastest.
    """
    import torch

    from tdd_cli.families import load_family
    from tdd_cli.families.loading import open_part
    from tdd_cli.families.lora import load_lora
    from tdd_cli.families.styles import fuse_style

    place = fastest() if device is None else torch.device(device)
    dtype = precision()
    how = source.inference
    family = load_family(how.family, how.model, dtype=dtype, device=place, config=how.config)
    for style in source.styles:
        fuse_style(family, style.path, style.scale)
    if source.weights is None:
        return family, family.denoise
    if how.student == "full":
        origin = family.net
        net = open_part(source.weights, type(origin).__name__, dtype=dtype)
        family.net = net.to(place).eval().requires_grad_(False)
        return family, partial(family.denoise, net=origin)
    load_lora(family.net, source.weights, scale=source.scale, prefix=family.lora_prefix)
    family.net.to(place)
    return family, adapterless(family)


def adapterless(family: Family) -> Network:
    """The family's network with its adapter switched off; UsageError where it has none to switch off."""
    from tdd_cli.families.lora import adapter_off, lora_modules

    if not lora_modules(family.net):
        raise UsageError(
            "the student's teacher is not at hand: it is not an adapter that can be switched off",
            hint="Guidance mode post needs the teacher.",
        )

    def teacher(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with adapter_off(family.net):
            return family.denoise(x_t, t, cond)

    return teacher


def precision() -> torch.dtype:
    """What models are loaded in: halves on an NVIDIA GPU."""
    import torch

    return torch.float16 if fastest().type == "cuda" else torch.float32


def fastest() -> torch.device:
    """The accelerator at hand, or the CPU."""
    import torch

    return torch.accelerator.current_accelerator() or torch.device("cpu")
