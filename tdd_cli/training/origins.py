"""What a run, or a cache, is made from, in words with a hash each: so that a change can be named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tdd_cli.families.base import Family
from tdd_cli.hashes import json_hash

Origins = dict[str, Any]
"""By recipe key or in words: JSON values."""

NO_MATTER = ("torch_dtype", "dtype", "transformers_version", "architectures")  # of a model's configuration


def models_used(family: Family, parts: Iterable[str]) -> Origins:
    """Weights and settings of some parts of a pipeline; of text encoders their tokenizers' words too."""
    components = family.pipeline().components
    found: Origins = {}
    for name in parts:
        part = components[name]
        if isinstance(part, nn.Module):
            found[f"weights of {name}"] = weights_hash(part)
        found[f"settings of {name}"] = settings_hash(part.config)
        words = name.replace("text_encoder", "tokenizer")
        if words in family.parts.tokenizers:
            found[f"words of {words}"] = json_hash(components[words].get_vocab())
    return found


def text_encoders(family: Family) -> list[str]:
    """Which parts of a pipeline read prompts."""
    return [name for name in family.parts.models if name.startswith("text_encoder")]


def weights_hash(module: nn.Module) -> str:
    """What changes when any weight tensor does: names, shapes and 64 values of each, spread over it.

    Values are rounded to bfloat16, so that it matters little in what the weights are held.
    """
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        flat = value.reshape(-1)
        some = flat[:: max(1, len(flat) // 64)][:64].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()


def settings_hash(config: Any) -> str:
    """Of a part's configuration, but for what says where it came from."""
    known = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return json_hash({key: v for key, v in known.items() if key[0] != "_" and key not in NO_MATTER})
