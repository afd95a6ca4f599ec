"""The formats: for each a function that writes it, and one that reads it back as its users will."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import TCDScheduler
from torch import Tensor

from tdd_cli.errors import UsageError
from tdd_cli.exporting.original import original_state
from tdd_cli.families import load_family
from tdd_cli.families.base import Family
from tdd_cli.families.libraries import quiet
from tdd_cli.families.lora import folded_state, lora_modules, lora_parameters, save_lora
from tdd_cli.families.lora_file import SETTINGS, State, split_key, write_state
from tdd_cli.families.names import original_name
from tdd_cli.inference import Inference
from tdd_cli.scheduler import TDDScheduler

CONFIG = "config"  # folder beside a single file: what from_single_file needs besides weights
KOHYA: dict[str, Callable[[str, Any], str]] = {
    "sd15": lambda name, config: name,
    "sdxl": original_name,  # by diffusers' names a widely used interface misses one of SDXL's upsamplers
}
"""Family -> the block names that interfaces know its adapters by."""


@dataclass(frozen=True)
class Format:
    """A way to keep a student.

    write  (family, where, dtype, metadata). The metadata hold the settings. The family is used up: its
           adapter may be merged, its dtype changed.
    read   (family, where) -> a family that holds what was read, float32. May take the same base model.
    """

    adapter: bool  # an adapter for a base model, or the whole model
    file: bool  # one file, or a folder
    write: Callable[[Family, Path, torch.dtype, Mapping[str, str]], None]
    read: Callable[[Family, Path], Family]


def write_diffusers(family: Family, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """diffusers' LoRA layout, strength 1, alpha multiplied in."""
    save_lora(family.net, path, metadata, prefix=family.lora_prefix, dtype=dtype)


def write_kohya(family: Family, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """kohya's LoRA layout, strength 1, alpha multiplied in and then given as the rank."""
    state = kohya_state(folded_state(family.net), family.name, family.net.config)
    halves = {key: value if key.endswith(".alpha") else value.to(dtype) for key, value in state.items()}
    write_state(path, halves, metadata)  # alphas in float32: bfloat16 counts to 256 only


def write_folder(family: Family, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """A diffusers pipeline folder with the adapter merged and the student's scheduler."""
    pipe = _pipeline(merged(family), metadata)
    with quiet():
        pipe.to(dtype=dtype).save_pretrained(path, safe_serialization=True)


def write_single_file(family: Family, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """One file in the original layout with the adapter merged, its configuration in a folder beside it."""
    write_state(path, original_state(merged(family), dtype), metadata)
    _write_config(_pipeline(family, metadata), path.with_name(CONFIG))


def read_adapter(family: Family, weights: Path) -> Family:
    """The base model with the file put on it by diffusers."""
    net: Any = family.net
    net.unload_lora()
    with quiet():
        family.pipeline().load_lora_weights(str(weights), adapter_name="default")
    for parameter in lora_parameters(net):
        parameter.data = parameter.data.float()
    return family


def read_folder(family: Family, weights: Path) -> Family:
    """The pipeline in the folder."""
    return load_family(family.name, str(weights))


def read_single_file(family: Family, weights: Path) -> Family:
    """The pipeline in the file, by diffusers' from_single_file."""
    return load_family(family.name, str(weights), config=str(weights.with_name(CONFIG)))


EXPORTERS = {
    "safetensors": Format(adapter=True, file=True, write=write_diffusers, read=read_adapter),
    "kohya": Format(adapter=True, file=True, write=write_kohya, read=read_adapter),
    "merged": Format(adapter=False, file=False, write=write_folder, read=read_folder),
    "single-file": Format(adapter=False, file=True, write=write_single_file, read=read_single_file),
}


def kohya_state(state: State, family: str, config: Any) -> State:
    """An adapter with alpha multiplied in under kohya's names, and with the alpha that says so.

    config: of the network. Raises UsageError for a family that has no such names.
    """
    if family not in KOHYA:
        raise UsageError(f"{family} adapters have no kohya layout here", hint="Use --format safetensors.")
    half = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
    flat: State = {}
    for key, value in state.items():
        module, part = split_key(key)
        name = f"lora_unet_{KOHYA[family](module, config).replace('.', '_')}"
        flat[f"{name}.{half[part]}"] = value
        if part == "lora_A.weight":
            flat[f"{name}.alpha"] = torch.tensor(float(len(value)))  # the rank: strength 1
    return flat


def merged(family: Family) -> Family:
    """The family with its adapter multiplied into the network's weights, if it has one."""
    net: Any = family.net
    if lora_modules(net):
        net.fuse_lora()
        net.unload_lora()
    return family


def held(family: Family, *, adapter: bool) -> dict[str, Tensor]:
    """What a file of this family has to hold: the adapter, or every weight of the pipeline."""
    if adapter:
        return folded_state(family.net)
    pipe = family.pipeline()
    return {
        f"{part}.{key}": value
        for part in family.parts.models
        for key, value in getattr(pipe, part).state_dict().items()
    }


def scheduler(config: Any, inference: Inference) -> Any:
    """diffusers' TCDScheduler with TDDScheduler's configuration beside its own.

    By count it visits the times the student was distilled for, it takes eta, and plain diffusers has it; it
    stops at the last training timestep, not quite at x0. TDDScheduler.from_config reads all of its own.
    """
    ours = TDDScheduler.from_config(
        config,
        teacher_timesteps=inference.teacher_grid,
        k_min=inference.k_min,
        k_max=inference.k_max,
        schedule=inference.schedule,
        clip_x0_steps=inference.clip_x0,
        dynamic_thresholding_ratio=inference.clip_ratio,
        sample_min_value=inference.clip_low,
        sample_max_value=inference.clip_high,
    )
    return TCDScheduler.from_config(ours.config, original_inference_steps=inference.teacher_grid)


def _pipeline(family: Family, metadata: Mapping[str, str]) -> Any:
    """The family's pipeline with the scheduler that fits the settings in a file's metadata."""
    pipe = family.pipeline()
    with quiet():
        pipe.scheduler = scheduler(pipe.scheduler.config, Inference.model_validate_json(metadata[SETTINGS]))
    return pipe


def _write_config(pipe: Any, folder: Path) -> None:
    """A pipeline's folder without its weights."""
    with quiet():
        pipe.save_config(folder)
        for name, part in pipe.components.items():
            if hasattr(part, "save_config"):  # diffusers' own
                part.save_config(folder / name)
            elif hasattr(part, "config"):  # transformers' networks
                part.config.save_pretrained(folder / name)
            elif part is not None:  # tokenizers
                part.save_pretrained(folder / name)
