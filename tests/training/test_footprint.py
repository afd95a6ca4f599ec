"""The memory of a computation, counted without taking it."""

import torch
from torch.nn import functional as F

from tdd_cli.training.footprint import peak_bytes, weightless


def test_what_lives_at_the_same_time_is_added_up_and_what_is_freed_is_not():
    def chain():
        a = torch.empty(1000)
        b = a.view(10, 100) + 1  # with a: two
        del a
        return b * 2  # in the place of a: still two

    with weightless("cpu"):
        assert peak_bytes(chain) == 2 * 4000


def test_what_autograd_keeps_is_counted_once_and_parameters_are_not():
    with weightless("cpu"):
        weight, x = torch.nn.Parameter(torch.empty(8, 8)), torch.empty(4, 8)

        def forward():
            hidden = (x @ weight).exp()  # keeps its own result
            return hidden * hidden  # keeps the same result

        assert (
            peak_bytes(lambda: forward() is None, known=[weight, x]) == 2 * 4 * 8 * 4
        )  # product, exp, square


def test_autocast_and_fused_attention_are_those_of_the_device():
    def attention():
        with torch.autocast("cpu", torch.bfloat16):
            query = F.linear(torch.empty(1, 1, 4096, 16), torch.empty(16, 16, requires_grad=True))
            assert query.dtype == torch.bfloat16
            return F.scaled_dot_product_attention(query, query, query)

    with weightless("cpu"):
        assert (
            peak_bytes(attention) < 4096 * 4096
        )  # bytes of attention weights, which the fused kernel keeps none of


def test_nothing_of_the_size_is_taken():
    with weightless("cpu"):
        assert peak_bytes(lambda: torch.empty(1 << 44) + 1) == 2 * 4 << 44  # 128 TiB
