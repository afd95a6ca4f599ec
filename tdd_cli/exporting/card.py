"""The model card: README.md with the hub's header, and how the student is used, wherever it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tdd_cli.exporting.metadata import hint
from tdd_cli.families.base import Family
from tdd_cli.families.loading import HUB_ID
from tdd_cli.generate import Sampling
from tdd_cli.run import Inference

LICENSES = {  # of base models people distil; the student inherits it
    "bundled:emoji": "apache-2.0",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
TAGS = {"sd15": "stable-diffusion", "sdxl": "stable-diffusion-xl"}
BASE = "path/to/the/base/model"


def card(
    family: Family,
    inference: Inference,
    *,
    title: str,
    weights: str | None,
    adapter: bool,
    picture: str | None = None,
    scores: Sequence[Mapping[str, str]] = (),
) -> str:
    """README.md of an export.

    inference  the student's settings; its model is the base model
    weights    the file's name; None for a pipeline folder
    scores     rows of an evaluation, all with the same keys
    """
    sampling = Sampling.of(inference)
    times = sampling.times().tolist()
    parts = [
        _header(inference, adapter=adapter),
        f"# {title}",
        _summary(inference, adapter=adapter),
        f"![Samples]({picture})" if picture else "",
        "## diffusers",
        _diffusers(inference, sampling, times, weights, adapter=adapter),
        "## ComfyUI",
        _comfyui(family, inference, sampling, times, weights, adapter=adapter),
        "## tdd",
        _tdd(inference, weights, adapter=adapter),
        *(["## Evaluation", _table(scores)] if scores else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sigmas(family: Family, times: Sequence[int]) -> list[float]:
    """The noise levels sigma / alpha of a schedule, as k-diffusion's samplers take them: 0 at the end."""
    schedule = family.schedule
    return [*(schedule.sigma[times] / schedule.alpha[times]).tolist(), 0.0]


def _header(inference: Inference, *, adapter: bool) -> str:
    tags = ["text-to-image", "diffusers", "tdd", "few-step", "distillation"]
    tags += [TAGS[inference.family]] if inference.family in TAGS else []
    about: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if _on_hub(inference.model):
        about |= {"base_model": inference.model, "base_model_relation": "adapter" if adapter else "finetune"}
    about |= {"license": LICENSES.get(inference.model, "other")}
    about |= {"tags": tags + (["lora"] if adapter else [])}
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---"


def _summary(inference: Inference, *, adapter: bool) -> str:
    what = "An adapter (LoRA, strength 1) for" if adapter else "A model made of"
    how = "" if inference.method == "none" else f", distilled by {inference.method.upper()}"
    known = (
        "Nothing came with it on how it is sampled: these are defaults."
        if inference.method == "none"
        else f"Distilled for {inference.k_min} to {inference.k_max} steps."
    )
    return (
        f"{what} {_base_name(inference)}{how}. Settings: {hint(inference)}. {known} "
        "`inference.json` has them all, for programs."
    )


def _diffusers(
    inference: Inference, sampling: Sampling, times: list[int], weights: str | None, *, adapter: bool
) -> str:
    guidance = _plain_guidance(sampling)
    if sampling.eta > 0:
        scheduler = "TCDScheduler"
        options = f"original_inference_steps={sampling.grid}"
        call = f"timesteps={times}, guidance_scale={guidance:g}, eta={sampling.eta:g}"
    else:
        scheduler, options = "EulerDiscreteScheduler", 'timestep_spacing="leading"'
        call = f"timesteps={times}, guidance_scale={guidance:g}"
    if inference.size:
        call += f", height={inference.size[0]}, width={inference.size[1]}"
    pipeline = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[inference.family]
    if adapter:
        model = inference.model if _on_hub(inference.model) else BASE
        load = (
            f'pipe = {pipeline}.from_pretrained("{model}")\n'
            f'pipe.load_lora_weights(".", weight_name="{weights}")  # strength 1'
        )
    elif weights:
        load = f'pipe = {pipeline}.from_single_file("{weights}", config="config")'
    else:
        load = f'pipe = {pipeline}.from_pretrained(".")'
    code = (
        f"from diffusers import {scheduler}, {pipeline}\n\n{load}\n"
        f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, {options})\n"
        f'pipe("a fox", {call}).images[0].save("fox.png")'
    )
    notes = ["In this folder:", f"```python\n{code}\n```"]
    if inference.model == "bundled:emoji" and adapter:
        notes.append(
            "The base model comes with tdd: "
            '`python -c "from tdd_cli.bundled.emoji import TEACHER; print(TEACHER)"` says where.'
        )
    if not adapter:
        notes.append(f"With its own scheduler `num_inference_steps={sampling.steps}` does too.")
    notes.append(
        "`TDDScheduler` of `tdd_cli.scheduler` takes the number of steps alone, and clips x0 where asked."
    )
    return "\n\n".join(notes)


def _comfyui(
    family: Family,
    inference: Inference,
    sampling: Sampling,
    times: list[int],
    weights: str | None,
    *,
    adapter: bool,
) -> str:
    if inference.model == "bundled:emoji":
        return "ComfyUI cannot open the bundled miniature: it knows SDXL at its full size only."
    if weights is None:
        return "ComfyUI opens single files: `tdd export --format single-file` makes one."
    node = "LoraLoaderModelOnly, strength 1" if adapter else "CheckpointLoaderSimple"
    place = "models/loras" if adapter else "models/checkpoints"
    levels = ", ".join(f"{level:.4f}" for level in sigmas(family, times))
    steps = [
        f"Put `{weights}` into `{place}` and load it with {node}.",
        f"SamplerCustom with cfg {_plain_guidance(sampling):g}, sampler `euler`, and these sigmas in a node "
        f"that takes them as text (ManualSigmas, CustomSigmas): `{levels}`",
    ]
    if family.schedule.prediction == "v":
        steps.insert(1, "ModelSamplingDiscrete with `v_prediction` between the two.")
    if sampling.eta > 0:
        steps.append(f"`euler` adds no noise; for eta {sampling.eta:g} use a TCD sampler node in its place.")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _tdd(inference: Inference, weights: str | None, *, adapter: bool) -> str:
    if not adapter:
        return f'```\ntdd sample "a fox" --model {weights or "."}\n```'
    at = "" if _on_hub(inference.model) or inference.model.startswith("bundled:") else f" --model {BASE}"
    return f'```\ntdd sample "a fox" --lora {weights}{at}\n```\nreads the settings above.'


def _table(scores: Sequence[Mapping[str, str]]) -> str:
    names = list(scores[0])
    rows = [names, ["---"] * len(names), *([row[name] for name in names] for row in scores)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain_guidance(sampling: Sampling) -> float:
    """The scale in diffusers' convention; 1 where the student has its scale built in."""
    assert not isinstance(sampling.guidance, tuple), "a student's settings have one scale"
    return 1.0 if sampling.guidance == sampling.free_guidance else sampling.guidance


def _base_name(inference: Inference) -> str:
    """The base model as the world may see it: not where it lies on this machine."""
    if inference.model.startswith("bundled:"):
        return f"tdd's bundled {inference.model.removeprefix('bundled:')} miniature"
    return inference.model if _on_hub(inference.model) else f"`{Path(inference.model).name}`"


def _on_hub(model: str) -> bool:
    return bool(HUB_ID.fullmatch(model)) and not Path(model).exists()
