"""Checkpoints: what comes back, what is pruned, and what is ignored."""

import json

import pytest
import torch

from tdd_cli.errors import UsageError
from tdd_cli.training import checkpoint


def optimizer(seed=0):
    weight = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(seed)))
    made = torch.optim.AdamW([weight], 0.1)
    weight.square().sum().backward()
    made.step()
    return made


def test_what_was_saved_comes_back(tmp_path):
    saved = optimizer()
    student = {"a.lora_A.weight": torch.randn(2, 3)}
    states = {"student": student, "ema": {"a.lora_A.weight": torch.randn(2, 3)}}
    path = checkpoint.save(tmp_path, 20, states, saved, {"scaler": {"scale": 2.0}})
    fresh = optimizer(seed=1)
    step, loaded, extra = checkpoint.load(path, fresh)
    assert (step, extra) == (20, {"scaler": {"scale": 2.0}})
    assert loaded.keys() == states.keys()
    for name, state in states.items():
        assert torch.equal(loaded[name]["a.lora_A.weight"], state["a.lora_A.weight"])
    (ours, numbers), (theirs, expected) = checkpoint.optimizer_state(fresh), checkpoint.optimizer_state(saved)
    assert numbers == expected
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_newest_are_kept(tmp_path):
    for step in (5, 100, 20):
        checkpoint.save(tmp_path, step, {"student": {"a": torch.zeros(1)}}, optimizer(), {})
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.list_all(tmp_path)] == ["step-000020", "step-000100"]
    assert checkpoint.latest(tmp_path).name == "step-000100"


def saved(folder, step=1):
    """A checkpoint with an average, and a scaler's state beside the rest."""
    states = {"student": {"a": torch.ones(9)}, "ema": {"a": torch.zeros(9)}}
    return checkpoint.save(folder, step, states, optimizer(), {"scaler": {"scale": 65536.0}})


def flip_a_bit(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["student", "ema", "optimizer"])
def test_one_changed_bit_is_said(tmp_path, name):
    path = saved(tmp_path)
    flip_a_bit(path / f"{name}.safetensors", -2)
    with pytest.raises(UsageError, match=f"{name}.safetensors has changed since it was written"):
        checkpoint.load(path, optimizer())


def test_a_changed_number_among_the_rest_is_said(tmp_path):
    path = saved(tmp_path)
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace("65536.0", "65537.0"))
    with pytest.raises(UsageError, match="state.json has changed"):
        checkpoint.load(path, optimizer())


def test_a_file_that_is_gone_is_said(tmp_path):
    path = saved(tmp_path)
    (path / "ema.safetensors").unlink()
    with pytest.raises(UsageError, match="cannot be read.*ema"):
        checkpoint.load(path, optimizer())


def test_a_checkpoint_without_hashes_is_taken_as_it_is(tmp_path):
    path = saved(tmp_path, step=7)
    state = json.loads((path / "state.json").read_text())
    del state["sha256"]
    (path / "state.json").write_text(json.dumps(state))
    assert checkpoint.load(path, optimizer())[0] == 7


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = [saved(tmp_path), tmp_path / ".student.yaml", tmp_path / "log.jsonl"]
    for path in kept[1:]:
        path.touch()
    half = [tmp_path / f".{name}.partial-a-node-12" for name in ("step-000010", "student")]
    for path in half:
        path.mkdir()
        (path / "student.safetensors").touch()
    file = tmp_path / ".adapter.partial-a-node-12.safetensors"
    file.touch()
    assert checkpoint.sweep(tmp_path) == sorted([*half, file])
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert checkpoint.sweep(tmp_path) == checkpoint.sweep(tmp_path / "absent") == []


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".step-000010.partial-1").mkdir()
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


@pytest.mark.parametrize("file", ["state.json", "student.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_said(tmp_path, file):
    path = checkpoint.save(tmp_path, 1, {"student": {"a": torch.zeros(1)}}, optimizer(), {})
    (path / file).write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be read"):
        checkpoint.load(path, optimizer())
