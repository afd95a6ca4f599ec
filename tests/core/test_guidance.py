"""Guidance: equal to two separate calls, one call at scale 1, dropped samples paid for once."""

import pytest
import torch

from tdd_cli.core.guidance import concat, drop_text, guided, post_tuned, take


class Counting:
    """A network that mixes its inputs and notes the batch of every call."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, cond):
        self.batches.append(len(x))
        return x * cond["text"].mean((1, 2)).reshape(-1, 1, 1, 1) + t.reshape(-1, 1, 1, 1) / 1000


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    cond = {"text": torch.randn(5, 3, 2, generator=g), "ids": torch.arange(5.0)}
    null = {"text": torch.zeros(5, 3, 2), "ids": torch.arange(5.0)}
    return torch.randn(5, 4, 2, 2, generator=g), torch.arange(5) * 100, cond, null


@pytest.mark.parametrize("scale", [0.0, 1.7, 7.5])
def test_guidance_is_null_plus_scale_times_the_difference(inputs, scale):
    x, t, cond, null = inputs
    net = Counting()
    expected = net(x, t, null) + scale * (net(x, t, cond) - net(x, t, null))
    torch.testing.assert_close(guided(net, cond, null, scale)(x, t), expected)
    assert net.batches[3:] == [10]


def test_scale_1_is_one_plain_call(inputs):
    x, t, cond, null = inputs
    net = Counting()
    assert torch.equal(guided(net, cond, null, 1.0)(x, t), Counting()(x, t, cond))
    assert net.batches == [5]


def test_only_the_chosen_rows_are_guided_and_paid_for(inputs):
    x, t, cond, null = inputs
    net, rows = Counting(), torch.tensor([0, 3])
    out = guided(net, cond, null, 4.0, rows=rows)(x, t)
    assert net.batches == [7]
    plain, full = Counting()(x, t, cond), guided(Counting(), cond, null, 4.0)(x, t)
    torch.testing.assert_close(out[rows], full[rows])
    others = torch.tensor([1, 2, 4])
    assert torch.equal(out[others], plain[others])


def test_no_rows_to_guide_is_one_plain_call(inputs):
    x, t, cond, null = inputs
    net = Counting()
    guided(net, cond, null, 4.0, rows=torch.tensor([], dtype=torch.long))(x, t)
    assert net.batches == [5]


def test_post_tuning_at_the_trained_scale_is_the_student_itself(inputs):
    x, t, cond, null = inputs
    student, teacher = Counting(), Counting()
    out = post_tuned(student, teacher, cond, null, scale=4.5, trained_scale=4.5)(x, t)
    torch.testing.assert_close(out, Counting()(x, t, cond))
    assert (student.batches, teacher.batches) == ([5], [])  # and costs one call


def test_post_tuning_undoes_then_applies(inputs):
    x, t, cond, null = inputs
    net = Counting()
    trained, scale = 4.5, 2.0
    e_null, e_cond = net(x, t, null), net(x, t, cond)
    undone = (e_cond + (trained - 1) * e_null) / trained
    expected = e_null + scale * (undone - e_null)
    out = post_tuned(net, net, cond, null, scale=scale, trained_scale=trained)(x, t)
    torch.testing.assert_close(out, expected)


def test_drop_text_empties_some_and_says_which_remain(inputs):
    _, _, cond, null = inputs
    dropped, kept = drop_text(cond, null, torch.tensor([True, False, True, False, False]))
    assert kept.tolist() == [0, 2]
    assert torch.equal(dropped["text"][kept], cond["text"][kept])
    assert (dropped["text"][[1, 3, 4]] == 0).all()
    assert torch.equal(dropped["ids"], cond["ids"])


@pytest.mark.parametrize("keep", [True, False])
def test_drop_text_at_its_ends(inputs, keep):
    _, _, cond, null = inputs
    dropped, kept = drop_text(cond, null, torch.full((5,), keep))
    assert torch.equal(dropped["text"], (cond if keep else null)["text"])
    assert len(kept) == (5 if keep else 0)


def test_concat_and_take_are_inverse(inputs):
    _, _, cond, null = inputs
    both = concat(cond, null)
    assert torch.equal(take(both, torch.arange(5, 10))["text"], null["text"])
