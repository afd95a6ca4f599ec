"""Every optimizer that a recipe may ask for: resumed to the bit, refused where its package is missing."""

import json

import pytest
import torch
from safetensors import safe_open

from tdd_cli.errors import MissingComponent, RecipeError
from tdd_cli.recipe import load_recipe
from tdd_cli.training import checkpoint, extras
from tdd_cli.training.optimizers import OPTIMIZERS, found_rate, optimizer_choice

TABLE = torch.linspace(-1, 1, 256)


class Peculiar(torch.optim.Optimizer):
    """Keeps state as the packages do: integers, a nested dict, a table all parameters share, an estimate."""

    def __init__(self, parameters, lr, factor=1.0):
        super().__init__(parameters, {"lr": lr, "factor": factor})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["d"] = group.get("d", 0.1) * 1.1
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "inner": {"sum": torch.zeros_like(parameter), "table": TABLE}}
                state["step"] += 1
                state["inner"]["sum"] += parameter.grad
                parameter -= group["lr"] * group["d"] * state["inner"]["sum"] / state["step"]


def weights():
    """A large matrix, which is what 8 bits are for, a small one, and a convolution in channels_last."""
    draw = torch.Generator().manual_seed(0)
    large, small = torch.randn(80, 128, generator=draw), torch.randn(3, 5, generator=draw)
    kernel = torch.randn(8, 4, 3, 3, generator=draw).to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(weight) for weight in (large, small, kernel)]


def steps(parameters, optimizer, numbers):
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.grad = torch.empty_like(parameter).copy_(parameter.detach() + 0.1 * noise)
        optimizer.step()


def make(name, parameters):
    if name == "peculiar":
        return Peculiar(parameters, 0.1)
    choice = OPTIMIZERS[name]
    if choice.package:
        pytest.importorskip(choice.package)
    return choice.make(parameters, 1.0 if name == "prodigy" else 1e-2, 0.01)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", ["peculiar", *OPTIMIZERS])
def test_an_optimizer_goes_on_as_if_it_had_never_stopped(tmp_path, name):
    whole, parts, again = weights(), weights(), weights()
    steps(whole, make(name, whole), range(6))
    first = make(name, parts)
    steps(parts, first, range(3))
    path = checkpoint.save(tmp_path, 3, {"student": {}}, first, {})
    for parameter, value in zip(again, parts, strict=True):
        parameter.data.copy_(value)
    second = make(name, again)
    assert checkpoint.load(path, second)[0] == 3
    assert found_rate(second) == found_rate(first)
    steps(again, second, range(3, 6))
    for ours, theirs in zip(again, whole, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(whole[0], weights()[0])


def test_what_is_no_tensor_is_json_and_settings_are_not_kept(tmp_path):
    parameters = weights()
    made = Peculiar(parameters, 0.1, factor=2.0)
    steps(parameters, made, range(2))
    path = checkpoint.save(tmp_path, 2, {"student": {}}, made, {})
    with safe_open(path / "optimizer.safetensors", "pt") as file:
        assert set(file.keys()) == {f"{i}.inner.{name}" for i in range(3) for name in ("sum", "table")}
    kept = json.loads((path / "state.json").read_text())["optimizer"]
    assert kept["0.step"] == 2
    assert kept["group.0.d"] == made.param_groups[0]["d"]
    assert "group.0.factor" not in kept


def test_the_state_of_another_optimizer_is_left_alone(tmp_path):
    parameters = weights()
    made = Peculiar(parameters, 0.1)
    steps(parameters, made, range(2))
    path = checkpoint.save(tmp_path, 2, {"student": {}}, made, {})
    other = make("adamw", weights())
    assert checkpoint.load(path, other)[0] == 2
    assert other.state_dict()["state"] == {}


@pytest.mark.parametrize(
    ("name", "extra"), [("adamw8bit", "8bit"), ("paged_adamw8bit", "8bit"), ("prodigy", "prodigy")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, name, extra):
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    with pytest.raises(MissingComponent, match=f"train.optimizer={name} needs the package") as refused:
        optimizer_choice(name)
    assert f"tdd-cli[{extra}]" in refused.value.hint
    assert refused.value.exit_code == 5


def test_prodigy_wants_a_learning_rate_about_one():
    with pytest.raises(RecipeError, match=r"train.lr must be 0.1 to 1 with prodigy.* got 0.0015"):
        load_recipe("emoji-4to8", ["train.optimizer=prodigy"])
    assert load_recipe("emoji-4to8", ["train.optimizer=prodigy", "train.lr=1"]).train.lr == 1
    with pytest.raises(RecipeError, match="train.lr must be < 1 with adamw, got 1"):
        load_recipe("emoji-4to8", ["train.lr=1"])
