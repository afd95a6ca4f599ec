"""The model card: README.md with the hub's header, and how the student is used, wherever it is used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tdd_cli.exporting.metadata import hint
from tdd_cli.families.base import Family
from tdd_cli.families.hub import HUB_ID
from tdd_cli.generate import Sampling
from tdd_cli.inference import Inference

MINIATURE = "bundled:emoji"
LICENSES = {  # of base models people distil; a student inherits it
    MINIATURE: "apache-2.0",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
TAGS = {"sd15": "stable-diffusion", "sdxl": "stable-diffusion-xl"}
BASE = "path/to/the/base/model"


@dataclass(frozen=True)
class Exported:
    """What a card is about."""

    family: Family
    inference: Inference  # the student's settings; its model is the base model
    weights: str | None  # the file's name; None for a pipeline folder
    adapter: bool  # or a whole model

    @property
    def times(self) -> list[int]:
        """The timesteps visited, descending."""
        return [int(t) for t in Sampling.of(self.inference).times()]

    @property
    def guidance(self) -> float:
        """The scale for programs that guide by the student's own null, which not every student has learnt."""
        return 1.0 if self.inference.guidance_mode == "post" else self.inference.guidance

    @property
    def on_hub(self) -> bool:
        """Whether the base model is one that others have; a folder here is not."""
        model = self.inference.model
        return bool(HUB_ID.fullmatch(model)) and not Path(model).exists()


def card(what: Exported, *, title: str, picture: str | None = None, scores: str = "") -> str:
    """README.md of an export; `picture` is a file beside it, `scores` a table in Markdown."""
    parts = [
        _header(what),
        f"# {title}",
        _summary(what),
        _goes_with(what),
        f"![Samples]({picture})" if picture else "",
        f"## diffusers\n\n{_diffusers(what)}",
        f"## ComfyUI\n\n{_comfyui(what)}",
        f"## tdd\n\n{_tdd(what)}",
        f"## Evaluation\n\n{scores}" if scores else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sigmas(family: Family, times: Sequence[int]) -> list[float]:
    """The noise levels sigma / alpha of a schedule, as k-diffusion's samplers take them: 0 at the end."""
    schedule = family.schedule
    return [*(schedule.sigma[times] / schedule.alpha[times]).tolist(), 0.0]


def _header(what: Exported) -> str:
    model = what.inference.model
    about: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if what.on_hub:
        about |= {"base_model": model, "base_model_relation": "adapter" if what.adapter else "finetune"}
    about["license"] = LICENSES.get(model, "other")
    tags = ["text-to-image", "diffusers", "tdd", "few-step", "distillation", TAGS.get(what.family.name)]
    about["tags"] = [tag for tag in [*tags, "lora" if what.adapter else None] if tag]
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---"


def _summary(what: Exported) -> str:
    inference = what.inference
    kind = "An adapter (LoRA, strength 1) for" if what.adapter else "A model made of"
    settings = f"Settings: {hint(inference)}. `inference.json` has them all, for programs."
    if inference.method == "none":
        return (
            f"{kind} {_base_name(what)}. {settings} It came without any: these were given at export, or are "
            "defaults."
        )
    return (
        f"{kind} {_base_name(what)}, distilled by {inference.method.upper()} for {inference.k_min} to "
        f"{inference.k_max} steps. {settings}"
    )


def _styles(what: Exported) -> tuple[tuple[str, float], ...]:
    """(name, strength) of the adapters that an exported adapter goes with; a whole model holds them."""
    return tuple((Path(file).name, scale) for file, scale in what.inference.styles) if what.adapter else ()


def _goes_with(what: Exported) -> str:
    """What must be loaded beside the adapter, if anything."""
    if not _styles(what):
        return ""
    named = " and ".join(f"`{name}` at strength {scale:g}" for name, scale in _styles(what))
    return (
        f"It makes a few steps of a model that has {named}: load that beside it. It does not contain it, and "
        "without it the style is missing."
    )


def _diffusers(what: Exported) -> str:
    notes = ["In this folder:", f"```python\n{_code(what)}\n```"]
    if what.inference.model == MINIATURE and what.adapter:
        command = 'python -c "from tdd_cli.bundled.emoji import TEACHER; print(TEACHER)"'
        notes.append(f"The base model comes with tdd: `{command}` says where.")
    if not what.adapter and what.inference.schedule == "equal":
        notes.append(f"With its own scheduler `num_inference_steps={what.inference.steps}` does too.")
    notes.append("`TDDScheduler` of `tdd_cli.scheduler` also clips x0 and noises as it was trained to.")
    return "\n\n".join(notes)


def _code(what: Exported) -> str:
    """Plain diffusers: between given times Euler's step in sigma is this sampler's without noise."""
    inference, pipeline = what.inference, what.family.parts.pipeline
    scheduler, options = "EulerDiscreteScheduler", 'timestep_spacing="leading"'
    call = f"timesteps={what.times}, guidance_scale={what.guidance:g}"
    if inference.eta > 0:
        scheduler, options = "TCDScheduler", f"original_inference_steps={inference.teacher_grid}"
        call += f", eta={inference.eta:g}"
    if inference.size:
        call += f", height={inference.size[0]}, width={inference.size[1]}"
    return (
        f"from diffusers import {scheduler}, {pipeline}\n\n"
        f"{_loading(what, pipeline)}\n"
        f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, {options})\n"
        f'pipe("a fox", {call}).images[0].save("fox.png")'
    )


def _loading(what: Exported, pipeline: str) -> str:
    if what.adapter:
        model = what.inference.model if what.on_hub else BASE
        return (
            f'pipe = {pipeline}.from_pretrained("{model}")\n'
            f'pipe.load_lora_weights(".", weight_name="{what.weights}"'
            + (")  # strength 1" if not _styles(what) else f', adapter_name="student")\n{_stacking(what)}')
        )
    if what.weights:
        return f'pipe = {pipeline}.from_single_file("{what.weights}", config="config")'
    return f'pipe = {pipeline}.from_pretrained(".")'


def _stacking(what: Exported) -> str:
    """The styles beside the student."""
    lines = [
        f'pipe.load_lora_weights(".", weight_name="{name}", adapter_name="style{i}")'
        for i, (name, _) in enumerate(_styles(what), 1)
    ]
    names = ["student", *(f"style{i}" for i in range(1, len(lines) + 1))]
    scales = [1.0, *(scale for _, scale in _styles(what))]
    return "\n".join([*lines, f"pipe.set_adapters({json.dumps(names)}, {scales})"])


def _comfyui(what: Exported) -> str:
    if what.inference.model == MINIATURE:
        return "ComfyUI cannot open the bundled miniature: it knows SDXL at its full size only."
    if what.weights is None:
        return "ComfyUI opens single files: `tdd export --format single-file` makes one."
    node = "LoraLoaderModelOnly, strength 1" if what.adapter else "CheckpointLoaderSimple"
    place = "models/loras" if what.adapter else "models/checkpoints"
    levels = ", ".join(f"{level:.4f}" for level in sigmas(what.family, what.times))
    steps = [
        f"Put `{what.weights}` into `{place}` and load it with {node}.",
        *(f"Load `{name}` before it, strength {scale:g}." for name, scale in _styles(what)),
        f"SamplerCustom with cfg {what.guidance:g}, sampler `euler`, and these sigmas in a node that takes "
        f"them as text (ManualSigmas, CustomSigmas): `{levels}`",
    ]
    if what.family.schedule.prediction == "v":
        steps.insert(-1, "ModelSamplingDiscrete with `v_prediction` between the two.")
    if what.inference.eta > 0:
        steps.append(
            f"`euler` adds no noise; for eta {what.inference.eta:g} take a TCD sampler node instead."
        )
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _tdd(what: Exported) -> str:
    if not what.adapter:
        return f'```\ntdd sample "a fox" --model {what.weights or "."}\n```'
    known = what.on_hub or what.inference.model == MINIATURE
    base = "" if known else f" --model {BASE}"
    return f'```\ntdd sample "a fox" --lora {what.weights}{base}\n```\nreads the settings above.'


def _base_name(what: Exported) -> str:
    """The base model as the world may see it: not where it lies on this machine."""
    model = what.inference.model
    if model == MINIATURE:
        return "tdd's bundled emoji miniature"
    return model if what.on_hub else f"`{Path(model).name}`"
