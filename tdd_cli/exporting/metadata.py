"""What a weight file's header says of itself: our settings, and the strings that interfaces read."""

from __future__ import annotations

import json
from collections import Counter

from tdd_cli.families.base import Family
from tdd_cli.families.lora import folded_state, lora_modules
from tdd_cli.families.lora_file import SETTINGS
from tdd_cli.inference import Inference

ARCHITECTURES = {  # family -> modelspec.architecture, ss_base_model_version
    "sd15": ("stable-diffusion-v1", "sd_v1"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
}
PREDICTIONS = {"eps": "epsilon", "v": "v"}


def metadata(family: Family, inference: Inference, title: str) -> dict[str, str]:
    """The header's strings; those on the adapter where the family's network has one.

    A1111 takes an adapter that has metadata and no ss_base_model_version for SD1's, and hides it from SDXL.
    """
    architecture, base = ARCHITECTURES.get(family.name, (family.name, family.name))
    height, width = inference.size or family.default_size
    about = {
        SETTINGS: json.dumps(inference.model_dump()),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": PREDICTIONS.get(family.schedule.prediction, family.schedule.prediction),
        "modelspec.usage_hint": hint(inference),
    }
    if not lora_modules(family.net):
        return about | {"modelspec.architecture": architecture}
    rank = str(_rank(family))
    return about | {
        "modelspec.architecture": f"{architecture}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,  # of the file: the trained one is multiplied in
        "ss_base_model_version": base,
        "ss_output_name": title,
    }


def hint(inference: Inference) -> str:
    """The settings in one line."""
    return f"{inference.steps} steps, guidance {inference.guidance:g}, eta {inference.eta:g}"


def _rank(family: Family) -> int:
    """The rank most modules have."""
    ranks = Counter(len(value) for key, value in folded_state(family.net).items() if "lora_A" in key)
    return ranks.most_common(1)[0][0]
