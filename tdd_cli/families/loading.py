"""From a name or a path to a diffusers pipeline in memory."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families.hub import HUB_ID, download, hub_answers
from tdd_cli.families.layout import CONVERT, PICKLES, Parts, check_config, check_file, weights_variant
from tdd_cli.families.libraries import quiet, readable

COPY_AGAIN = "it is incomplete, or of another model: copy it again, whole"
NAME_A_MODEL = "give a diffusers folder, a .safetensors file, a hub id owner/name, or bundled:emoji"


def open_pipeline(
    path: str, family: str, parts: Parts, *, dtype: torch.dtype, config: str | None = None
) -> Any:
    """The pipeline at `path`: a folder, a single .safetensors file, "bundled:NAME" or a hub id.

    Raises UsageError for what cannot be used, MissingComponent for what cannot be reached.
    """
    found = find_model(path, family, parts, dtype=dtype)
    if found.is_dir():
        return open_folder(found, family, parts, dtype=dtype)
    return open_file(found, family, parts, dtype=dtype, config=config)


def find_model(path: str, family: str, parts: Parts, *, dtype: torch.dtype) -> Path:
    """The folder or file of a model, downloaded from the hub where that is its place; no weight is read yet.

    Raises as `open_pipeline`: for what is not there, of another kind, or without some of its parts' files.
    """
    if not path:
        raise UsageError("no model was named", hint=NAME_A_MODEL)
    local = Path(path).expanduser()
    if local.suffix.lower() in PICKLES:
        raise UsageError(f"{path} is a pickle", hint=CONVERT)
    if path.startswith("bundled:"):
        folder = bundled(path)
    elif local.is_file():
        check_file(local, family, parts)
        return local
    elif local.is_dir():
        folder = local
    elif not HUB_ID.fullmatch(path) or path.startswith(("./", "../")) or local.suffix == ".safetensors":
        raise UsageError(f"no model at {path}", hint=NAME_A_MODEL)
    else:
        folder = download(path, family, parts, dtype=dtype)
    check_config(folder, family, parts)
    for name in parts.models:
        weights_variant(folder / name, dtype)
    return folder


def bundled(path: str) -> Path:
    """The folder of "bundled:NAME"."""
    name = path.removeprefix("bundled:")
    root = Path(str(files("tdd_cli.bundled")))
    names = sorted(p.name for p in root.iterdir() if (p / "__init__.py").is_file())
    if name not in names:
        raise UsageError(f"no bundled model {name!r}", hint=f"bundled: {', '.join(names)}")
    folder = root / name / "teacher"
    if not folder.is_dir():
        raise MissingComponent(
            f"the bundled model {name!r} is not in this installation",
            hint="install tdd-cli again, or fetch the repository with its large files",
        )
    return folder


def open_folder(folder: Path, family: str, parts: Parts, *, dtype: torch.dtype) -> Any:
    """The pipeline in a diffusers folder, every weight of every part accounted for."""
    import diffusers

    models: dict[str, Any] = {}
    with quiet():
        for name, class_name in parts.models.items():
            models[name] = open_part(folder / name, class_name, dtype=dtype)
        with readable(folder):
            return getattr(diffusers, parts.pipeline).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                **models,
                **dict.fromkeys(parts.without),
                **parts.flags,
            )


def open_part(folder: Path, class_name: str, *, dtype: torch.dtype) -> nn.Module:
    """One network of a pipeline from its own folder; weights that the file lacks are an error, not noise."""
    import diffusers
    import transformers

    library = diffusers if hasattr(diffusers, class_name) else transformers
    variant = weights_variant(folder, dtype)
    with readable(folder):
        part, info = getattr(library, class_name).from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    lost = sorted(info["missing_keys"])
    if lost:
        raise UsageError(f"{folder} lacks {len(lost)} weights, the first {lost[0]}", hint=COPY_AGAIN)
    return cast(nn.Module, part)


def open_file(path: Path, family: str, parts: Parts, *, dtype: torch.dtype, config: str | None) -> Any:
    """The pipeline in a single .safetensors file in the original layout, as model sites offer them."""
    import diffusers

    folder = None if config is None else check_config(Path(config).expanduser(), family, parts)
    if folder is None and not hub_answers():
        raise MissingComponent(
            f"{path.name} has weights only; its configuration is on the hub, which does not answer",
            hint=f"set the model's config to a {family} diffusers folder (weights not needed)",
        )
    lacks = UsageError(f"{path} lacks some of {family}'s weights", hint=COPY_AGAIN)
    with quiet(), readable(path):
        try:
            pipe = getattr(diffusers, parts.pipeline).from_single_file(
                str(path),
                config=None if folder is None else str(folder),
                local_files_only=folder is not None,
                torch_dtype=dtype,
                **dict.fromkeys(parts.without),
                **parts.flags,
            )
        except NotImplementedError as error:  # raised where a weight that was never filled is moved
            raise lacks from error
    if any(weight.is_meta for part in parts.models for weight in getattr(pipe, part).parameters()):
        raise lacks
    return pipe
