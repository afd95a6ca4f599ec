"""Adapters: the teacher is untouched, nothing is lost in a file and back, wrong files are refused."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tdd_cli.errors import UsageError
from tdd_cli.families import FAMILIES, load_family
from tdd_cli.families.lora import (
    adapter_off,
    add_lora,
    bare_copy,
    folded_state,
    frozen_copy,
    load_lora,
    lora_modules,
    lora_parameters,
    lora_state,
    save_lora,
    set_lora_state,
    unfreeze,
)
from tdd_cli.families.reload import check_saved
from tiny import SIZE

T = torch.tensor([10, 900])


@pytest.fixture(params=FAMILIES)
def family(request, tiny_folders):
    return load_family(request.param, str(tiny_folders[request.param]))


@pytest.fixture
def forward(family):
    """The prediction of a network on fixed inputs."""
    x = torch.randn(2, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1))
    cond = family.encode_prompts(["a fox", "the sun"])
    return torch.no_grad()(lambda net=None: family.denoise(x, T, cond, net=net))


def train(net, seed=0):
    """Stand-in for training: an adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(net):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def trained(family, **more):
    add_lora(family.net, family.lora_targets, rank=4, **more)
    train(family.net)
    return family.net


def test_a_fresh_adapter_changes_nothing(family, forward):
    before = forward()
    add_lora(family.net, family.lora_targets, rank=4)
    assert torch.equal(forward(), before)


def test_the_adapter_is_on_convolutions_too(family):
    add_lora(family.net, family.lora_targets, rank=4)
    modules = dict(family.net.named_modules())
    kinds = {type(modules[name].base_layer) for name in lora_modules(family.net)}
    assert kinds == {torch.nn.Linear, torch.nn.Conv2d}
    wanted = [n for n, _ in bare_copy(family.net).named_modules() if n.endswith(family.lora_targets)]
    assert sorted(lora_modules(family.net)) == sorted(wanted)


def test_only_the_adapter_trains_and_in_float32(family):
    parameters = add_lora(family.net.to(torch.bfloat16), family.lora_targets, rank=4)
    assert len(parameters) == 2 * len(lora_modules(family.net))
    assert {id(p) for p in parameters} == {id(p) for p in family.net.parameters() if p.requires_grad}
    assert {p.dtype for p in parameters} == {torch.float32}
    assert family.net.conv_in.weight.dtype == torch.bfloat16


def test_the_first_draw_follows_the_generator_alone(family):
    drawn = []
    for seed in (1, 1, 2):
        net = frozen_copy(family.net)
        before = torch.get_rng_state()
        add_lora(net, family.lora_targets, rank=4, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(torch.cat([p.flatten() for p in lora_parameters(net)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_targets_that_match_nothing_are_named(family):
    with pytest.raises(UsageError, match="to_qq"):
        add_lora(family.net, ["to_qq"], rank=4)
    assert not lora_modules(family.net)


def test_the_teacher_is_the_network_with_the_adapter_off(family, forward):
    teacher = forward()
    net = trained(family)
    student = forward()
    assert not torch.equal(student, teacher)
    with adapter_off(net):
        assert torch.equal(forward(), teacher)
        with adapter_off(net):
            assert torch.equal(forward(), teacher)
        assert torch.equal(forward(), teacher)
    assert torch.equal(forward(), student)
    with pytest.raises(ZeroDivisionError), adapter_off(net):
        raise ZeroDivisionError
    assert torch.equal(forward(), student)
    assert all(p.requires_grad for p in lora_parameters(net))


def test_gradients_reach_the_adapter_around_a_teacher_call(family):
    net = trained(family)
    x = torch.randn(2, 4, SIZE // 2, SIZE // 2)
    cond = family.encode_prompts(["a fox", "the sun"])
    ours = family.denoise(x, T, cond)
    with torch.no_grad(), adapter_off(net):
        theirs = family.denoise(x, T, cond)
    (ours - theirs).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora_parameters(net))


def test_gradient_checkpointing_leaves_the_gradients_alone(family):
    """The forward pass is run again in backward, when the adapter has long been switched on again."""
    net = trained(family)
    x = torch.randn(2, 4, SIZE // 2, SIZE // 2)
    cond = family.encode_prompts(["a fox", "the sun"])
    gradients = []
    net.train()
    for switch in (net.disable_gradient_checkpointing, net.enable_gradient_checkpointing):
        switch()
        ours = family.denoise(x, T, cond)
        with torch.no_grad(), adapter_off(net):
            theirs = family.denoise(x, T, cond)
        loss = (ours - theirs).square().mean()
        gradients.append(torch.autograd.grad(loss, lora_parameters(net)))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_bfloat16_network_trains_saves_and_loads(family, forward, tmp_path):
    family.net.to(torch.bfloat16)
    before = forward()
    net = trained(family, alpha=3)
    with adapter_off(net):
        assert torch.equal(forward(), before)
    x = torch.randn(2, 4, SIZE // 2, SIZE // 2)
    family.denoise(x, T, family.encode_prompts(["a fox", "the sun"])).square().mean().backward()
    assert {p.grad.dtype for p in lora_parameters(net)} == {torch.float32}
    save_lora(net, tmp_path / "lora.safetensors", {})
    assert check_saved(tmp_path / "lora.safetensors", net, bare_copy(net), forward).ok


def test_a_full_fine_tune_has_no_teacher_inside(family, forward):
    with pytest.raises(AssertionError, match="frozen_copy"), adapter_off(family.net):
        pass
    before, teacher = forward(), frozen_copy(family.net)
    for parameter in unfreeze(family.net):
        assert parameter.requires_grad
        parameter.data.mul_(1.1)
    assert torch.equal(forward(teacher), before)
    assert not torch.equal(forward(), before)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_file_brings_everything_back_exactly(family, forward, tmp_path):
    net = trained(family)
    save_lora(net, tmp_path / "lora.safetensors", {"note": "ours"})
    found = check_saved(tmp_path / "lora.safetensors", net, bare_copy(net), forward)
    assert found.matched == found.total == len(lora_modules(net))
    assert found.delta < 1e-5
    assert found.ok
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert file.metadata()["note"] == "ours"
        assert all(key.startswith("unet.") for key in file.keys())  # noqa: SIM118
    assert [p.name for p in tmp_path.iterdir()] == ["lora.safetensors"]


@pytest.mark.parametrize("alpha", [1, 2, 12])
def test_alpha_is_folded_into_the_file(family, forward, tmp_path, alpha):
    net = trained(family, alpha=alpha)
    save_lora(net, tmp_path / "lora.safetensors", {})
    raw, folded = lora_state(net), load_file(tmp_path / "lora.safetensors")
    for key, value in raw.items():
        assert torch.equal(folded[f"unet.{key}"], value * (alpha / 4 if "lora_B" in key else 1))
    found = check_saved(tmp_path / "lora.safetensors", net, bare_copy(net), forward)
    assert found.ok
    assert found.delta < 1e-5


def test_plain_diffusers_loads_every_module_at_strength_one(family, forward, tmp_path, tiny_folders):
    net = trained(family, alpha=8)
    save_lora(net, tmp_path / "lora.safetensors", {})
    pipe = load_family(family.name, str(tiny_folders[family.name])).pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="default")
    assert lora_modules(pipe.unet) == lora_modules(net)
    torch.testing.assert_close(forward(pipe.unet), forward(net), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alpha", [4, 2])
def test_files_written_by_diffusers_load(family, forward, tmp_path, alpha):
    net = trained(family, alpha=alpha)
    pipe_class = type(family.pipeline())
    config = net.peft_config["default"].to_dict()
    pipe_class.save_lora_weights(
        tmp_path, unet_lora_layers=lora_state(net), unet_lora_adapter_metadata=config
    )
    (path,) = tmp_path.glob("*.safetensors")
    fresh = bare_copy(net)
    assert load_lora(fresh, path) == len(lora_modules(net))
    torch.testing.assert_close(forward(fresh), forward(net), atol=1e-5, rtol=1e-5)


def test_older_names_and_an_alpha_per_module_load(family, forward):
    net = trained(family, alpha=2)
    names = {"lora_A.weight": "lora.down.weight", "lora_B.weight": "lora.up.weight"}
    state = {}
    for key, value in lora_state(net).items():
        module, _, part = key.rpartition(".lora_")
        state[f"unet.{module}.{names['lora_' + part]}"] = value
        state[f"unet.{module}.alpha"] = torch.tensor(2.0)
    fresh = bare_copy(net)
    load_lora(fresh, state)
    torch.testing.assert_close(forward(fresh), forward(net), atol=1e-5, rtol=1e-5)


def test_mixed_ranks_load(family, forward):
    net = trained(family)
    state = folded_state(net)
    module = lora_modules(net)[5]
    for part, dim in (("lora_A", 0), ("lora_B", 1)):  # one idle rank more
        key = f"{module}.{part}.weight"
        state[key] = torch.cat([state[key], torch.zeros_like(state[key].narrow(dim, 0, 1))], dim)
    fresh = bare_copy(net)
    load_lora(fresh, state)
    torch.testing.assert_close(forward(fresh), forward(net), atol=1e-5, rtol=1e-5)


def test_strength_scales_the_difference(family, forward):
    base = forward()
    net = trained(family)
    off = bare_copy(net)
    load_lora(off, folded_state(net), scale=0.0)
    assert torch.equal(forward(off), base)
    assert not any(p.requires_grad for p in off.parameters())


def spoil_shape(state):
    key = next(key for key in state if key.endswith("lora_B.weight"))
    return state | {key: torch.zeros(state[key].shape[0] + 1, *state[key].shape[1:])}


def spoil_half(state):
    return {key: value for index, (key, value) in enumerate(state.items()) if index}


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_shape,
        spoil_half,
        lambda state: state | {"unet.no.such.lora_A.weight": torch.zeros(4, 4)},
        lambda state: state | {"text_encoder.layer.lora_A.weight": torch.zeros(4, 4)},
        lambda state: {f"lora_unet_{key.replace('.', '_')}": value for key, value in state.items()},
        lambda state: {"something": torch.zeros(1)},
    ],
)
def test_a_file_that_does_not_fit_entirely_is_refused(family, tmp_path, spoil):
    net = trained(family)
    save_lora(net, tmp_path / "lora.safetensors", {})
    save_file(spoil(load_file(tmp_path / "lora.safetensors")), tmp_path / "bad.safetensors")
    fresh = bare_copy(net)
    with pytest.raises(UsageError, match=r"fits this model in \d+ of \d+ modules"):
        load_lora(fresh, tmp_path / "bad.safetensors")
    assert not lora_modules(fresh)


def test_another_models_lora_is_refused(tiny_folders, tmp_path):
    one, other = (load_family(name, str(tiny_folders[name])) for name in ("sd15", "sdxl"))
    save_lora(trained(one), tmp_path / "lora.safetensors", {})
    with pytest.raises(UsageError, match=r"in \d+ of \d+ modules"):
        load_lora(other.net, tmp_path / "lora.safetensors")


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "absent.safetensors"])
def test_pickles_and_absent_files_are_refused(family, tmp_path, name):
    with pytest.raises(UsageError):
        load_lora(family.net, tmp_path / name)


def test_a_checkpoint_resumes_unfolded(family, forward):
    net = trained(family, alpha=2)
    state = {key: value.clone() for key, value in lora_state(net).items()}
    fresh = bare_copy(net)
    add_lora(fresh, family.lora_targets, rank=4, alpha=2)
    set_lora_state(fresh, state)
    assert torch.equal(forward(fresh), forward(net))
    other = bare_copy(net)
    add_lora(other, ["to_q"], rank=4)
    with pytest.raises(UsageError, match="fits"):
        set_lora_state(other, state)


def test_a_damaged_file_fails_the_reload_check(family, forward, tmp_path):
    net = trained(family)
    save_lora(net, tmp_path / "lora.safetensors", {})
    state = load_file(tmp_path / "lora.safetensors")
    key = next(key for key in state if key.endswith("lora_B.weight"))
    state[key] = state[key] * 1.001
    save_file(state, tmp_path / "lora.safetensors")
    found = check_saved(tmp_path / "lora.safetensors", net, bare_copy(net), forward)
    assert found.matched == found.total - 1
    assert not found.ok


def test_a_failed_save_leaves_nothing(family, tmp_path):
    net = trained(family)
    with pytest.raises(TypeError):
        save_lora(net, tmp_path / "lora.safetensors", {"number": 1})
    assert list(tmp_path.iterdir()) == []


def test_adapters_work_on_a_network_without_weights(family):
    """For estimates: the number of trainable parameters without loading or drawing anything."""
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(family.net.config)
    parameters = add_lora(net, family.lora_targets, rank=4)
    assert [p.shape for p in parameters] == [
        p.shape for p in add_lora(family.net, family.lora_targets, rank=4)
    ]
