"""The model families: what tells one kind of diffusion model from another.

A family is one file and its name below; `load_family` opens a model as one. Nothing heavy is imported
until a model is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tdd_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

    from tdd_cli.families.base import Family

FAMILIES = {
    "sd15": "tdd_cli.families.sd15:SD15",
    "sdxl": "tdd_cli.families.sdxl:SDXL",
}


def load_family(
    name: str,
    path: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    config: str | None = None,
) -> Family:
    """The model at `path`, opened as family `name`, frozen and on `device`.

    path    a diffusers folder, a hub id "owner/name", a single .safetensors file, or "bundled:NAME"
    dtype   of the network and the text encoders (float32 if None); the VAE always stays in float32
    config  for a single file: a diffusers folder (weights not needed) with its configuration and tokenizers

    Raises UsageError for what is there but cannot be used, MissingComponent for what cannot be reached.
    """
    import torch

    cls = family_class(name)
    return cls.load(path, dtype=dtype or torch.float32, config=config).to(device)


def family_class(name: str) -> type[Family]:
    """The class of family `name`, imported now."""
    if name not in FAMILIES:
        raise UsageError(f"unknown family {name!r}", hint=f"families: {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    cls: type[Family] = getattr(import_module(module), attribute)
    return cls
