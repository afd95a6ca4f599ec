"""LoRA files from elsewhere: every spelling is read as one, at the right strength; hostile files are not."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from tdd_cli.errors import UsageError
from tdd_cli.families import FAMILIES, load_family
from tdd_cli.families.lora import add_lora, bare_copy, folded_state, load_lora, lora_parameters, lora_state
from tdd_cli.families.lora_file import SETTINGS, read_metadata
from tdd_cli.families.names import original_name

RANK, ALPHA = 4, 8.0


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tiny_folders):
    """A network with an adapter of alpha twice its rank."""
    family = load_family(request.param, str(tiny_folders[request.param]))
    add_lora(family.net, family.lora_targets, rank=RANK, alpha=ALPHA)
    with torch.no_grad():
        for parameter in lora_parameters(family.net):
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return family.net


def kohya(spell):
    """A file as kohya's trainer, and the published LCM-LoRAs, have it."""

    def write(net):
        flat = {}
        for key, value in lora_state(net).items():
            module, part = key.split(".lora_")
            name = f"lora_unet_{spell(module, net.config).replace('.', '_')}"
            flat[f"{name}.lora_{'down' if part[0] == 'A' else 'up'}.weight"] = value
            flat[f"{name}.alpha"] = torch.tensor(ALPHA)
        return flat

    return write


def attention_processors(net):
    """As diffusers wrote adapters of attention layers before it used PEFT."""
    state = {}
    for key, value in lora_state(net).items():
        module, part = key.split(".lora_")
        half = "down" if part[0] == "A" else "up"
        block, _, layer = module.rpartition(".to_") if ".to_" in module else ("", "", "")
        own = f"{block}.processor.to_{layer.removesuffix('.0')}_lora" if block else f"{module}.lora"
        state[f"unet.{own}.{half}.weight"] = value
        state[f"{module}.alpha"] = torch.tensor(ALPHA)
    return state


SPELLINGS = {
    "kohya, diffusers' blocks": kohya(lambda module, config: module),
    "kohya, original blocks": kohya(original_name),
    "attention processors": attention_processors,
}


@pytest.mark.parametrize("write", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_is_read_at_its_strength(trained, tmp_path, write):
    save_file(write(trained), tmp_path / "lora.safetensors")
    fresh = bare_copy(trained)
    load_lora(fresh, tmp_path / "lora.safetensors")
    want, got = folded_state(trained), folded_state(fresh)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[key], got[key]) for key in want)


def lost(trained, path, **more):
    """As the published TDD files: PEFT's own names under diffusers' prefix, the alpha nowhere."""
    state = {f"unet.base_model.model.{key}": value for key, value in lora_state(trained).items()}
    save_file(state, path, more or None)
    return path


def test_a_lost_alpha_is_restored(trained, tmp_path):
    path = lost(trained, tmp_path / "lora.safetensors")
    for alpha, factor in ((None, RANK / ALPHA), (ALPHA, 1)):
        fresh = bare_copy(trained)
        load_lora(fresh, path, alpha=alpha)
        want, got = folded_state(trained), folded_state(fresh)
        for key, value in want.items():
            torch.testing.assert_close(got[key], value * (factor if "lora_B" in key else 1))


def test_an_alpha_that_is_not_lost_is_not_replaced(trained, tmp_path):
    save_file(SPELLINGS["kohya, original blocks"](trained), tmp_path / "own.safetensors")
    folded = lost(trained, tmp_path / "folded.safetensors", **{SETTINGS: "{}"})
    for path in (tmp_path / "own.safetensors", folded):
        with pytest.raises(UsageError, match="has its alpha"):
            load_lora(bare_copy(trained), path, alpha=2)


@pytest.mark.parametrize(
    ("config", "alpha"),
    [
        ({"unet.lora_alpha": 2, "unet.alpha_pattern": {}}, 2),
        ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"^mid_block\\.attentions\\.0\\.proj_in": 6}}, 6),
        ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"attentions.0.proj_in": 6}}, 6),
        ({"unet.alpha_pattern": {"(a+)+$": 6, "((": 1}}, RANK),  # not run as a regular expression
        ({"unet.alpha_pattern": 3, "unet.lora_alpha": "much"}, RANK),
        ([], RANK),
    ],
)
def test_alpha_in_the_metadata(trained, tmp_path, config, alpha):
    said = {"lora_adapter_metadata": json.dumps(config)}
    path = lost(trained, tmp_path / "lora.safetensors", **said)
    fresh = bare_copy(trained)
    load_lora(fresh, path)
    key = "mid_block.attentions.0.proj_in.lora_B.weight"
    torch.testing.assert_close(folded_state(fresh)[key], lora_state(trained)[key] * alpha / RANK)


# --- hostile files ---


def lying(path, **changes):
    """A file whose header says what its bytes are not."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    header = json.dumps({"unet.conv_in.lora_A.weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2**40, 2**40]},
        {"shape": [2, 3]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [-16, 0]},
        {"dtype": "F99"},
    ],
)
def test_a_header_that_lies_is_refused(trained, tmp_path, changes):
    lying(tmp_path / "lies.safetensors", **changes)
    for read in (lambda path: load_lora(bare_copy(trained), path), read_metadata):
        with pytest.raises(UsageError, match="cannot be loaded"):
            read(tmp_path / "lies.safetensors")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def test_a_renamed_pickle_is_refused_unopened(trained, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match="is a pickle"):
        load_lora(bare_copy(trained), tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a\\b.lora_A.weight", "unet..conv_in.lora_A.weight", "a\0b"]
)
def test_names_that_no_network_has_are_refused(trained, tmp_path, key):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(UsageError, match="has a tensor named"):
        load_lora(bare_copy(trained), tmp_path / "lora.safetensors")
