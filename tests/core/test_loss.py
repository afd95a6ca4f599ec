"""The distillation step against what can be computed by hand."""

import pytest
import torch

from reads import NoReads
from tdd_cli.core.guidance import guided
from tdd_cli.core.loss import LOSSES, distillation_loss, pseudo_huber
from tdd_cli.core.schedule import make_betas, vp
from tdd_cli.core.targets import TARGETS
from tdd_cli.core.times import draw_teacher_steps, solver_grid

SCHEDULE = vp(make_betas("scaled_linear", 0.00085, 0.012))
GRID = solver_grid(250)


def exact_eps(x, t):
    """The best possible network for data that is one point, x0 = 0.7: it knows the noise exactly."""
    alpha, sigma = SCHEDULE.at(t, x)
    return (x - alpha * 0.7) / sigma


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_student_and_teacher_give_loss_0(target, loss):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.full((64, 4, 4, 4), 0.7), torch.randn(64, 4, 4, 4, generator=generator)
    t, t_prev = draw_teacher_steps(GRID, 64, generator)
    s = TARGETS[target](GRID)(t_prev, generator)
    distance = LOSSES[loss]()
    value = distillation_loss(SCHEDULE, exact_eps, exact_eps, x0, noise, t, t_prev, s, distance)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_a_step_reads_nothing_back_from_the_device():
    x0, noise = torch.randn(2, 4, 3, 4, 4).unbind(0)
    cond, null = {"text": torch.ones(4, 2)}, {"text": torch.zeros(4, 2)}
    teacher = guided(lambda x, t, c: x * c["text"].mean(), cond, null, 3.0, rows=torch.tensor([0, 2]))
    weight = torch.tensor(0.5, requires_grad=True)
    select, distance = TARGETS["tdd"](GRID), LOSSES["pseudo_huber"]()
    with NoReads():
        t, t_prev = draw_teacher_steps(GRID, 4)
        s = select(t_prev, None)
        student = lambda x, t: weight * x  # noqa: E731
        distillation_loss(SCHEDULE, student, teacher, x0, noise, t, t_prev, s, distance).backward()
    assert weight.grad is not None


def test_gradients_flow_through_the_jump_from_t_alone():
    weight = torch.tensor(0.5, requires_grad=True)
    calls = []

    def student(x, t):
        calls.append(torch.is_grad_enabled())
        return weight * x

    x0, noise = torch.randn(2, 3, 4, 4, 4).unbind(0)
    t = torch.tensor([999, 499, 103])
    value = distillation_loss(
        SCHEDULE, student, exact_eps, x0, noise, t, t - 4, (t - 204).clamp(0), LOSSES["l2"]()
    )
    value.backward()
    assert sorted(calls) == [False, True]
    # d/dw of the same loss with the target held fixed
    w = torch.tensor(0.5, requires_grad=True)
    x_t = SCHEDULE.mix(x0, noise, t)
    x_prev = SCHEDULE.jump(x_t, exact_eps(x_t, t), t, t - 4)
    theirs = SCHEDULE.jump(x_prev, 0.5 * x_prev, t - 4, (t - 204).clamp(0))
    ours = SCHEDULE.jump(x_t, w * x_t, t, (t - 204).clamp(0))
    (ours - theirs).square().mean().backward()
    torch.testing.assert_close(weight.grad, w.grad)


def test_pseudo_huber_is_the_distance_far_out_and_half_a_square_near():
    distance = pseudo_huber(c=0.001)
    zero = torch.zeros(4)
    assert distance(zero + 3.0, zero).item() == pytest.approx(3.0, abs=1.1e-3)
    assert distance(zero + 1e-4, zero).item() == pytest.approx(1e-8 / 0.002, rel=0.02)
    assert distance(zero, zero).item() == pytest.approx(0, abs=1e-9)


def test_where_student_and_target_are_equal_the_gradient_is_0_not_nan():
    x = torch.ones(3, requires_grad=True)
    pseudo_huber()(x, torch.ones(3)).backward()
    assert torch.equal(x.grad, torch.zeros(3))
