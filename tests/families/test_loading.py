"""Loading: every way in works offline, and what cannot be used is refused with what to do instead."""

import json
import logging
import pickle
import shutil
import struct
import time

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.exporting.original import original_state
from tdd_cli.families import FAMILIES, family_class, load_family
from tdd_cli.families.hub import files_wanted
from tdd_cli.families.layout import check_header, variant_of
from tdd_cli.families.libraries import quiet
from tdd_cli.families.loading import bundled


@pytest.fixture
def sdxl(tiny_folders, tmp_path):
    """A copy of the tiny SDXL folder to be spoilt."""
    return shutil.copytree(tiny_folders["sdxl"], tmp_path / "copy")


@pytest.fixture(scope="module")
def single_files(tiny_folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    for name in FAMILIES:
        family = load_family(name, str(tiny_folders[name]))
        save_file(original_state(family, torch.float32), root / f"{name}.safetensors")
    return {name: root / f"{name}.safetensors" for name in FAMILIES}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and an empty cache, whose folder this is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refusal(name, path, error=UsageError, **more):
    with pytest.raises(error) as caught:
        load_family(name, str(path), **more)
    assert caught.value.hint
    return f"{caught.value.message}; {caught.value.hint}"


# --- single files ---


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_file_holds_the_same_model(name, single_files, tiny_folders):
    one = load_family(name, str(single_files[name]), config=str(tiny_folders[name]))
    whole = load_family(name, str(tiny_folders[name]))
    for part in whole.parts.models:
        want = getattr(whole.pipeline(), part).state_dict()
        got = getattr(one.pipeline(), part).state_dict()
        assert want.keys() == got.keys()
        assert all(torch.equal(want[key], got[key]) for key in want)
    assert one.schedule.prediction == whole.schedule.prediction


def test_a_single_file_needs_a_config_when_the_hub_is_silent(single_files, offline):
    assert "config" in refusal("sdxl", single_files["sdxl"], MissingComponent)


def test_a_single_file_of_another_family_is_refused(single_files, tiny_folders):
    assert "not a sd15 model" in refusal("sd15", single_files["sdxl"], config=str(tiny_folders["sd15"]))
    assert "that is the family sd15" in refusal(
        "sdxl", single_files["sdxl"], config=str(tiny_folders["sd15"])
    )
    assert "model_index.json" in refusal("sdxl", single_files["sdxl"], config="nowhere")


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight",
        "first_stage_model.decoder.mid.block_1.conv1.bias",
    ],
)
def test_a_single_file_without_some_weights_is_refused(single_files, tiny_folders, tmp_path, key):
    state = load_file(single_files["sdxl"])
    del state[key]
    save_file(state, tmp_path / "less.safetensors")
    said = refusal("sdxl", tmp_path / "less.safetensors", config=str(tiny_folders["sdxl"]))
    assert "lacks some of sdxl's weights" in said


def test_a_lora_or_a_part_is_not_a_model(tmp_path, tiny_folders):
    save_file({"unet.a.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    assert "is a LoRA" in refusal("sdxl", tmp_path / "lora.safetensors")
    part = tiny_folders["sdxl"] / "unet" / "diffusion_pytorch_model.safetensors"
    assert "not a whole model" in refusal("sdxl", part)


# --- pickles ---


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".CKPT"])
def test_pickles_are_refused_by_name_even_if_absent(tmp_path, suffix):
    assert "save_pretrained" in refusal("sdxl", tmp_path / f"model{suffix}")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def test_a_renamed_pickle_is_refused_unopened(tmp_path, sdxl):
    for number, save in enumerate(
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), lambda path: torch.save(Bomb(), path))
    ):
        path = tmp_path / f"model{number}.safetensors"
        save(path)
        assert "is a pickle" in refusal("sdxl", path)
        shutil.copy(path, sdxl / "unet" / "diffusion_pytorch_model.safetensors")
        assert "is a pickle" in refusal("sdxl", sdxl)


def test_a_folder_with_only_pickles_is_refused(sdxl):
    (sdxl / "vae" / "diffusion_pytorch_model.safetensors").rename(
        sdxl / "vae" / "diffusion_pytorch_model.bin"
    )
    said = refusal("sdxl", sdxl)
    assert "diffusion_pytorch_model.bin" in said
    assert "save_pretrained" in said


def test_safetensors_win_over_pickles_beside_them(sdxl):
    (sdxl / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    load_family("sdxl", str(sdxl))


# --- spoilt files and folders ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "damaged"),
        (struct.pack("<Q", 10**12) + b"{}", "damaged"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
    ],
)
def test_what_is_not_safetensors_is_told_apart(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        check_header(path)
    assert said in caught.value.hint


def test_a_file_cut_short_is_refused(sdxl):
    path = sdxl / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cannot be loaded" in refusal("sdxl", sdxl)


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae"])
def test_missing_weights_are_an_error_and_never_random(sdxl, part):
    (path,) = (sdxl / part).glob("*.safetensors")
    state = load_file(path)
    del state[sorted(state)[3]]
    save_file(state, path, metadata={"format": "pt"})
    assert "lacks 1 weights" in refusal("sdxl", sdxl)


@pytest.mark.parametrize("gone", ["unet", "model_index.json", "unet/config.json", "scheduler", "tokenizer_2"])
def test_an_incomplete_folder_is_refused(sdxl, gone):
    path = sdxl / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refusal("sdxl", sdxl)


def test_another_familys_folder_says_which(tiny_folders):
    assert "that is the family sd15" in refusal("sdxl", tiny_folders["sd15"])
    assert "that is the family sdxl" in refusal("sd15", tiny_folders["sdxl"])


@pytest.mark.parametrize(
    ("part", "entry", "said"),
    [
        ("unet", ["my_unet", "UNet"], "code of the model's own"),
        ("vae", ["diffusers", "AutoencoderTiny"], "needs a AutoencoderKL"),
    ],
)
def test_foreign_parts_are_refused(sdxl, part, entry, said):
    index = json.loads((sdxl / "model_index.json").read_text())
    (sdxl / "model_index.json").write_text(json.dumps(index | {part: entry}))
    assert said in refusal("sdxl", sdxl)


# --- variants, bundled, hub ---


def test_half_precision_files_are_used_where_they_fit(sdxl):
    for path in [*sdxl.glob("*/*.safetensors")]:
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    load_family("sdxl", str(sdxl))
    both = ["m.safetensors", "m.fp16.safetensors"]
    assert variant_of(both, torch.float32) is None
    assert variant_of(both, torch.bfloat16) is None
    assert variant_of(both, torch.float16) == "fp16"


def test_bundled_names():
    with pytest.raises(UsageError) as caught:
        bundled("bundled:nothing")
    assert "emoji" in caught.value.hint


@pytest.mark.parametrize(
    "path", ["./nowhere", "/no/where", "nowhere", "a/b/c", "~/nowhere", "x/y.safetensors"]
)
def test_what_looks_like_a_path_is_no_hub_id(path):
    assert "no model at" in refusal("sdxl", path)


def test_no_name_is_asked_for():
    assert "no model was named" in refusal("sdxl", "")


def test_an_absent_hub_says_what_to_put_where(offline):
    said = refusal("sdxl", "owner/name", MissingComponent)
    assert "hf download owner/name" in said
    assert "bundled:emoji" in said


def test_a_dead_hub_is_found_out_at_once(monkeypatch, offline):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    refusal("sdxl", "owner/name", MissingComponent)
    assert time.monotonic() - start < 5


def test_a_hub_model_in_the_cache_loads_offline(offline, tiny_folders):
    home = offline / "models--owner--name"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_folders["sdxl"], home / "snapshots" / ("0" * 40))
    assert load_family("sdxl", "owner/name").name == "sdxl"


def test_only_the_needed_files_of_a_hub_model_are_fetched():
    parts = family_class("sd15").parts
    names = [
        *("sd.safetensors", "unet/model.onnx", "unet/d.bin", "unet/d.safetensors", "unet/d.fp16.safetensors"),
        *("vae/d.safetensors", "text_encoder/m.safetensors"),
    ]
    wanted = files_wanted(names, "owner/name", parts, torch.float16)
    assert [name for name in names if name in wanted] == names[4:]
    assert names[3] in files_wanted(names, "owner/name", parts, torch.float32)
    with pytest.raises(UsageError, match="no safetensors for vae"):
        files_wanted(names[:5], "owner/name", parts, torch.float32)


def test_loading_is_quiet_and_gives_the_loggers_back(tiny_folders, capfd):
    level = logging.getLogger("diffusers").level
    load_family("sd15", str(tiny_folders["sd15"])).pipeline()
    out = capfd.readouterr()
    assert out.out + out.err == ""
    with pytest.raises(ZeroDivisionError), quiet():
        raise ZeroDivisionError
    assert logging.getLogger("diffusers").level == level
