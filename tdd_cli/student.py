"""A student: how it is sampled, where its weights are, and the family with them in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.run import Inference, Run

if TYPE_CHECKING:
    from tdd_cli.families.base import Family


def settings(
    run: Path | None, model: str | None, family: str, lora: Path | None
) -> tuple[Inference, Path | None]:
    """(how to sample, the student's weights) of a run, a model and an adapter, or the bundled student.

    The weights are None for a model as it is. Raises UsageError for what does not fit together.
    """
    if run is not None:
        if model or lora:
            raise UsageError(
                "--run names a model and an adapter already", hint="Leave out --model and --lora."
            )
        found = Run.open(run)
        inference = Inference.load(found.inference)
        return inference, found.adapter if inference.student == "lora" else found.folder / "student"
    if lora is not None and model is None:
        beside = lora.with_name("inference.json")
        if not beside.is_file():
            raise UsageError(
                f"{lora} has no inference.json beside it", hint="Say which model it is for: --model"
            )
        return Inference.load(beside), lora
    if model is not None:
        return bare(model, family), lora
    return bundled()


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
    import torch

    from tdd_cli.families import load_family
    from tdd_cli.families.loading import open_part
    from tdd_cli.families.lora import load_lora

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    family = load_family(
        inference.family, inference.model, dtype=dtype, device=device, config=inference.config
    )
    if weights is not None and inference.student == "full":
        net = open_part(weights, type(family.net).__name__, dtype=dtype)
        family.net = net.to(device).eval().requires_grad_(False)
    elif weights is not None:
        load_lora(family.net, weights, prefix=family.lora_prefix)
        family.net.to(device)
        family.net.fuse_lora()  # type: ignore[operator]
    return family
