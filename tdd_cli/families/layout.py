"""What a model must look like on disk before it is read. Only safetensors; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tdd_cli.errors import UsageError
from tdd_cli.families.libraries import readable

PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format
CONVERT = (
    "tdd reads safetensors only, because loading a pickle runs whatever code it holds. Convert it where you "
    "trust it: load it with diffusers there and call pipe.save_pretrained(FOLDER)"
)
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")  # anything else is code in the folder


@dataclass(frozen=True)
class Parts:
    """How a family's diffusers pipeline is put together."""

    pipeline: str  # its class in diffusers
    models: Mapping[str, str]  # folder: class, of the parts that have weights
    tokenizers: tuple[str, ...]  # their folders
    mark: str  # how some keys begin in a single file of this family, and of no other
    without: tuple[str, ...] = ()  # parts that are left out
    flags: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline's constructor
    net: str = "unet"  # the part that is distilled


def check_config(folder: Path, family: str, parts: Parts) -> Path:
    """Refuse a folder that cannot say how a single file of this family is put together."""
    check_index(read_index(folder), folder, family, parts)
    check_tokenizers(folder, parts)
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """What a diffusers folder says of its parts."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline", hint=f"it has no {path.name}")
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="copy the model again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a pipeline's description", hint="copy the model again")
    return found


def check_index(index: Mapping[str, Any], folder: Path | str, family: str, parts: Parts) -> None:
    """Refuse another family's pipeline, a part of another kind, and parts that are code in the folder."""
    found = index.get("_class_name")
    if found != parts.pipeline:
        raise UsageError(
            f"{folder} holds a {found}, not {family}'s {parts.pipeline}", hint=_family_hint(found)
        )
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        library, class_name = entry
        wanted = parts.models.get(name)
        if library not in _LIBRARIES:
            raise UsageError(
                f"{folder}: {name} is {library}.{class_name}, code of the model's own",
                hint="tdd runs only the classes of diffusers and transformers",
            )
        if wanted and class_name != wanted:
            raise UsageError(f"{folder}: {name} is a {class_name}", hint=f"{family} needs a {wanted} there")


def check_tokenizers(folder: Path, parts: Parts) -> None:
    """Refuse a folder without its vocabularies: transformers would make tokenizers that know no word."""
    for name in parts.tokenizers:
        have = {path.name for path in (folder / name).glob("*")}
        if not ("tokenizer.json" in have or {"vocab.json", "merges.txt"} <= have):
            raise UsageError(
                f"{folder / name} has no vocabulary",
                hint="it needs vocab.json and merges.txt, or tokenizer.json: copy the model again, whole",
            )


def check_file(path: Path, family: str, parts: Parts) -> None:
    """Refuse pickles, LoRA files, parts of a model, and other families' files."""
    if path.suffix.lower() != ".safetensors":
        raise UsageError(f"{path} is not a .safetensors file", hint=CONVERT)
    check_header(path)
    with readable(path), safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    if any("lora" in key for key in keys):
        raise UsageError(
            f"{path} is a LoRA, not a model", hint="give the model it was made for, and this as --lora"
        )
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise UsageError(
            f"{path} is not a whole model in the original layout",
            hint="give the whole diffusers folder, or the whole file",
        )
    if not any(key.startswith(parts.mark) for key in keys):
        raise UsageError(
            f"{path} is not a {family} model", hint="is it of another family, or without text encoders?"
        )


def check_header(path: Path) -> None:
    """Refuse what is called .safetensors and is not: a renamed pickle, a git-lfs pointer, half a download."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) == 9 and start[8:] == b"{" and length <= min(MAX_HEADER, path.stat().st_size):
        return
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UsageError(f"{path} is a pickle, whatever its name says", hint=CONVERT)
    if start.startswith(b"version "):
        raise UsageError(f"{path} is a git-lfs pointer, not the weights", hint="run: git lfs pull")
    raise UsageError(f"{path} is not a safetensors file", hint="it is damaged or cut short: copy it again")


def weights_variant(folder: Path, dtype: torch.dtype) -> str | None:
    """The variant of a part's weights to read (see `variant_of`), its files' headers checked."""
    if not folder.is_dir():
        raise UsageError(
            f"the folder {folder.name} is missing in {folder.parent}", hint="copy the model again, whole"
        )
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
        if pickles:
            raise UsageError(f"{folder} has its weights only as a pickle ({pickles[0]})", hint=CONVERT)
        raise UsageError(f"{folder} has no weights", hint="it needs a .safetensors file")
    for path in found:
        check_header(path)
    return variant_of([path.name for path in found], dtype)


def variant_of(names: list[str], dtype: torch.dtype) -> str | None:
    """The variant to read among the weight files of one part: float16's own for float16, if there is one."""
    half = [name for name in names if ".fp16." in name]
    return "fp16" if half and (dtype == torch.float16 or len(half) == len(names)) else None


def _family_hint(class_name: object) -> str:
    from tdd_cli.families import FAMILIES, family_class

    for name in FAMILIES:
        if family_class(name).parts.pipeline == class_name:
            return f"that is the family {name}"
    return f"families: {', '.join(FAMILIES)}"
