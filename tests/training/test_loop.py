"""The pieces of the training loop: draws, shares, learning rates, and micro-batches that add up."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tdd_cli.core.loss import LOSSES
from tdd_cli.core.targets import TARGETS, tdd
from tdd_cli.core.times import solver_grid
from tdd_cli.data.batches import Batch
from tdd_cli.families import load_family
from tdd_cli.training.draws import draw_step
from tdd_cli.training.loop import Method, Shares, learning_rate, micro_loss
from tdd_cli.training.student import lora_pair

GRID = solver_grid(250)


def draws(step=3, seed=0, batch=16):
    return draw_step(GRID, tdd(GRID), batch=batch, drop_text=0.25, seed=seed, step=step)


def test_a_steps_draws_depend_on_seed_and_step_alone():
    one, again, later, other = draws(), draws(), draws(step=4), draws(seed=1)
    assert torch.equal(one.t, again.t)
    assert one.seeds == again.seeds
    assert not torch.equal(one.t, later.t)
    assert not torch.equal(one.t, other.t)
    assert not set(one.seeds) & set(later.seeds)


def test_a_part_of_the_draws_is_a_part_of_the_noise():
    whole, part = draws().noise((4, 2, 2)), draws().part(slice(4, 8)).noise((4, 2, 2))
    assert torch.equal(whole[4:8], part)


@pytest.mark.parametrize("name", TARGETS)
def test_draws_are_ordered(name):
    drawn = draw_step(GRID, TARGETS[name](GRID), batch=256, drop_text=0.2, seed=0, step=0)
    assert (drawn.s <= drawn.t_prev).all()
    assert (drawn.t_prev < drawn.t).all()
    assert 0.7 < drawn.keep.float().mean() < 0.9


@pytest.mark.parametrize(("batch", "micro", "processes"), [(16, 16, 1), (16, 4, 1), (16, 3, 2), (12, 8, 3)])
def test_shares_cover_the_batch_once(batch, micro, processes):
    rows = [
        row
        for process in range(processes)
        for part in Shares(batch, micro, process, processes).parts()
        for row in range(part.start, part.stop)
    ]
    assert rows == list(range(batch))


def test_every_sample_weighs_the_same_however_the_batch_is_cut():
    for micro in (12, 4, 5, 1):
        for processes in (1, 2, 3):
            shares = Shares(12, micro, 0, processes)
            each = [shares.weight(part) / (part.stop - part.start) for part in shares.parts()]
            assert each == pytest.approx([processes / 12] * len(each))


def test_the_learning_rate_rises_then_stays_or_falls():
    constant = learning_rate(1.0, warmup=4, steps=12, schedule="constant")
    assert [constant(step) for step in (0, 3, 4, 11)] == [0.25, 1.0, 1.0, 1.0]
    cosine = learning_rate(1.0, warmup=4, steps=12, schedule="cosine")
    assert cosine(4) == 1.0
    assert cosine(8) == pytest.approx(0.5)
    assert cosine(11) < 0.05


READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}  # of torch: the host waits


class Reading(TorchDispatchMode):
    """Notes the operations whose outcome the host needs, on tensors the device has."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in READS:
            self.found.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def micro_step(folder, device):
    """A micro-step that has nothing left to encode, to be taken."""
    family = load_family("sdxl", str(folder), device=device)
    cond = family.encode_prompts(["a fox", "the sun", "a tree", "rain"])
    x0 = torch.randn(4, 4, 4, 4, device=device)
    pair = lora_pair(family, rank=2)
    method = Method(GRID, tdd(GRID), LOSSES["pseudo_huber"](), guidance=3.0, drop_text=0.25)
    family.null(cond)
    drawn, nothing = draws(batch=4), Batch({}, [], torch.empty(0))
    return lambda: micro_loss(family, pair, method, nothing, drawn, lambda batch: (x0, cond))


def test_a_micro_step_reads_nothing_back(tiny_folders):
    step = micro_step(tiny_folders["sdxl"], "cpu")
    with Reading() as reading:
        step().backward()
    assert reading.found == ["nonzero"]  # of which prompts are dropped, drawn on the CPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_micro_step_does_not_wait_for_the_gpu(tiny_folders):
    step = micro_step(tiny_folders["sdxl"], "cuda")
    step().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
