"""The formats: no key that a program would leave out, and every one loads in plain diffusers."""

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

from real import UNETS, original_modules, real_unet
from tdd_cli.errors import UsageError
from tdd_cli.exporting.formats import EXPORTERS, KOHYA, kohya_state
from tdd_cli.exporting.original import original_state
from tdd_cli.families import FAMILIES
from tdd_cli.families.latent import UNET_TARGETS
from tdd_cli.families.lora_file import read_lora


def adapter(family):
    """An adapter on every module of the real UNet that students adapt, and its kohya file."""
    net = real_unet(family)
    state = {}
    for name, layer in net.named_modules():
        if name.endswith(tuple(f".{target}" for target in UNET_TARGETS)) and hasattr(layer, "weight"):
            state |= {f"{name}.lora_A.weight": torch.zeros(3, 1), f"{name}.lora_B.weight": torch.zeros(1, 3)}
    return state, kohya_state(state, family, net.config)


def flat(names):
    return {f"lora_unet_{name.replace('.', '_')}" for name in names}


def in_a1111(name, family):
    """The module of the original network, dots as underscores, that A1111's Lora extension takes a name for.

    SDXL's names it only strips; for SD1.x it reckons diffusers' blocks, three entries to a resolution.
    """
    name = name.removeprefix("lora_unet_")
    if family == "sdxl":
        return name
    inner = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    inner["conv_shortcut"] = "skip_connection"
    if found := re.fullmatch(r"(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", name):
        side, block, kind, layer, rest = found.groups()
        start = "input_blocks" if side == "down" else "output_blocks"
        number = (1 if side == "down" else 0) + int(block) * 3 + int(layer)
        return f"{start}_{number}_{int(kind == 'attentions')}_{inner.get(rest, rest)}"
    if found := re.fullmatch(r"mid_block_(attentions|resnets)_(\d+)_(.+)", name):
        kind, layer, rest = found.groups()
        return f"middle_block_{1 if kind == 'attentions' else int(layer) * 2}_{inner.get(rest, rest)}"
    if found := re.fullmatch(r"down_blocks_(\d+)_downsamplers_0_conv", name):
        return f"input_blocks_{3 + int(found[1]) * 3}_0_op"
    if found := re.fullmatch(r"up_blocks_(\d+)_upsamplers_0_conv", name):
        return f"output_blocks_{2 + int(found[1]) * 3}_{2 if int(found[1]) else 1}_conv"
    return None


def modules_of(state):
    return {key.split(".")[0] for key in state}


@pytest.mark.parametrize(("family", "count"), [("sd15", 278), ("sdxl", 788)])
def test_a_kohya_file_has_down_up_and_alpha_for_every_module(family, count):
    state, file = adapter(family)
    names = modules_of(file)
    assert (len(names), len(state)) == (count, 2 * count)
    assert set(file) == {
        f"{name}.{part}" for name in names for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert all(file[f"{name}.alpha"] == 3 for name in names)


@pytest.mark.parametrize("family", UNETS)
def test_comfyui_maps_every_kohya_key(family):
    """It takes both the original names and diffusers', of all weights the network has."""
    weights = [key.removesuffix(".weight") for key in real_unet(family).state_dict()]
    assert modules_of(adapter(family)[1]) <= flat(original_modules(family)) | flat(weights)


@pytest.mark.parametrize("family", UNETS)
def test_a1111_maps_every_kohya_key(family):
    theirs = {name.replace(".", "_") for name in original_modules(family)}
    assert {in_a1111(name, family) for name in modules_of(adapter(family)[1])} == theirs


def test_a1111_would_miss_an_upsampler_of_sdxl_by_diffusers_names():
    """Why SDXL files carry the original names."""
    ours = flat(name for name, _ in real_unet("sdxl").named_modules() if name.endswith("upsamplers.0.conv"))
    theirs = {name.replace(".", "_") for name in original_modules("sdxl")}
    assert {in_a1111(name, "sd15") for name in ours} - theirs == {"output_blocks_2_1_conv"}


@pytest.mark.parametrize("family", UNETS)
def test_diffusers_maps_every_kohya_key(family):
    state, file = adapter(family)
    found, alphas = _convert_non_diffusers_lora_to_diffusers(
        _maybe_map_sgm_blocks_to_diffusers(file, real_unet(family).config)
    )
    assert (len(found), len(alphas)) == (len(state), len(state) // 2)


@pytest.mark.parametrize("family", UNETS)
def test_tdd_reads_its_own_kohya_names(family):
    state, file = adapter(family)
    found = read_lora(file, real_unet(family))
    assert set(found.state) == set(state)
    assert set(found.alphas.values()) == {3.0}


def test_a_family_without_the_layout_is_refused():
    with pytest.raises(UsageError, match="flux9"):
        kohya_state({}, "flux9", None)
    with pytest.raises(UsageError, match="flux9"):
        original_state(SimpleNamespace(name="flux9"), torch.float32)


def test_every_family_has_kohya_names():
    assert set(KOHYA) == set(FAMILIES)
    assert set(EXPORTERS) == {"safetensors", "kohya", "merged", "single-file"}
