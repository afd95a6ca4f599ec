"""An adapter added to the weights computes, and learns, what an adapter beside them does."""

import pytest
import torch
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora
from tdd_cli.families.merged import Merged, trainable_attention


@pytest.fixture(params=["sd15", "sdxl"])
def family(request, tiny_folders):
    family = load_family(request.param, str(tiny_folders[request.param]))
    parameters = add_lora(family.net, family.lora_targets, rank=3, alpha=6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in parameters:
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return family


def forward_and_gradients(family, net):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(2, *family.latent_shape(*family.default_size), generator=generator)
    pred = family.denoise(x_t, torch.tensor([100, 900]), family.encode_prompts(["a fox", "a cat"]), net=net)
    parameters = [weight for weight in family.net.parameters() if weight.requires_grad]
    return pred, torch.autograd.grad(pred.square().mean(), parameters)


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


@pytest.mark.parametrize(("side", "plain"), [(16, True), (32, True), (64, False)])
def test_attention_is_plain_where_its_weights_are_small(side, plain):
    with trainable_attention(torch.zeros(1, 4, side, side)):
        assert (_cur_sdpa_kernel_backends() == [SDPBackend.MATH]) is plain
