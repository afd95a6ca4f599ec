"""A family without its weights: every tensor has a shape and no memory. For plans, which need no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tdd_cli.errors import MissingComponent
from tdd_cli.families import family_class
from tdd_cli.families.base import Family
from tdd_cli.families.layout import Parts, check_config
from tdd_cli.families.libraries import quiet
from tdd_cli.families.loading import bundled


def blank_family(name: str, path: str, *, dtype: torch.dtype, config: str | None = None) -> Family:
    """The model at `path` on the meta device; only configurations and vocabularies are read.

    Raises MissingComponent where they are not in a folder here.
    """
    cls = family_class(name)
    folder = bundled(path) if path.startswith("bundled:") else Path(config or path).expanduser()
    if not folder.is_dir():
        raise MissingComponent(
            f"{path}: its configuration is not in a folder here",
            hint="For a hub model: download its configurations, and set model.config to the folder.",
        )
    check_config(folder, name, cls.parts)
    return cls(_pipeline(folder, cls.parts, dtype)).to("meta")  # type: ignore[call-arg]


def _pipeline(folder: Path, parts: Parts, dtype: torch.dtype) -> Any:
    import diffusers

    with quiet():
        models = {name: _part(folder / name, class_name, dtype) for name, class_name in parts.models.items()}
        return getattr(diffusers, parts.pipeline).from_pretrained(
            folder, local_files_only=True, **models, **dict.fromkeys(parts.without), **parts.flags
        )


def _part(folder: Path, class_name: str, dtype: torch.dtype) -> nn.Module:
    """One network by its configuration."""
    import diffusers
    import transformers

    with torch.device("meta"):
        cls: Any = getattr(diffusers, class_name, None)
        if cls is not None:
            part: nn.Module = cls.from_config(cls.load_config(folder))
        else:
            cls = getattr(transformers, class_name)
            part = cls(cls.config_class.from_pretrained(folder))
    return part.to(dtype)
