"""An adapter added to the weights computes, and learns, what an adapter beside them does."""

import pytest
import torch
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora
from tdd_cli.families.merged import Held, Merged, merged_weights, trainable_attention


@pytest.fixture(params=["sd15", "sdxl"])
def family(request, tiny_folders):
    family = load_family(request.param, str(tiny_folders[request.param]))
    parameters = add_lora(family.net, family.lora_targets, rank=3, alpha=6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in parameters:
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return family


def forward(family, net, *, seed):
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(2, *family.latent_shape(*family.default_size), generator=generator)
    return family.denoise(x_t, torch.tensor([100, 900]), family.encode_prompts(["a fox", "a cat"]), net=net)


def learned(family):
    return [weight for weight in family.net.parameters() if weight.requires_grad]


def forward_and_gradients(family, net):
    pred = forward(family, net, seed=0)
    return pred, torch.autograd.grad(pred.square().mean(), learned(family))


def test_merged_computes_and_learns_what_the_adapter_does(family):
    beside, gradients = forward_and_gradients(family, family.net)
    merged, same_gradients = forward_and_gradients(family, Merged(family.net))
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=1e-5)
    assert len(gradients) > 20
    torch.testing.assert_close(same_gradients, gradients, rtol=1e-3, atol=1e-6)


def test_merging_leaves_the_network_as_it_was(family):
    before = {name: value.clone() for name, value in family.net.state_dict().items()}
    forward_and_gradients(family, Merged(family.net))
    after = family.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def a_step(family, net):
    """What a training step asks of the student: a pass without gradients, then one with them."""
    with torch.no_grad():
        target = forward(family, net(), seed=1)
    return torch.autograd.grad((forward(family, net(), seed=0) - target).square().mean(), learned(family))


def test_weights_held_through_a_step_are_made_once_and_change_no_bit(family):
    made = []
    held = Held(lambda: made.append(0) or merged_weights(family.net))
    apart = a_step(family, lambda: Merged(family.net))
    with held.steady():
        together = a_step(family, lambda: Merged(family.net, held.get()))
    assert len(made) == 1
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    before = held.get()
    with torch.no_grad():
        learned(family)[0].add_(1)
    after = held.get()
    assert len(made) == 3
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("side", "plain"), [(16, True), (32, True), (64, False)])
def test_attention_is_plain_where_its_weights_are_small(side, plain):
    with trainable_attention(torch.zeros(1, 4, side, side)):
        assert (_cur_sdpa_kernel_backends() == [SDPBackend.MATH]) is plain
