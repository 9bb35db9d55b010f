import copy

import pytest
import torch

from rcgm.config import OptimizerConfig
from rcgm.models import MLP
from rcgm.objectives import RCGM
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer
from rcgm.training.step import TrainStep


def build(student, objective, **options) -> TrainStep:
    optimizer = build_optimizer(OptimizerConfig(lr=1e-2), student)
    return TrainStep(student, objective, optimizer, Ema(student, 0.9), seed=0, **options)


@pytest.fixture
def student():
    network = MLP(dim=2, width=8, depth=2, frequency_size=4, generator=torch.Generator().manual_seed(0))
    # The last layer starts at 0, where no gradient reaches the others.
    torch.nn.init.normal_(network.output.weight, generator=torch.Generator().manual_seed(1))
    return network


@pytest.fixture
def batch():
    return torch.randn(12, 2, generator=torch.Generator().manual_seed(2))


def test_accumulation_equals_the_large_batch(student, batch, regression):
    twin = copy.deepcopy(student)
    whole, split = build(student, regression), build(twin, regression, accumulate=4)
    for step in range(3):
        one = whole(step, batch, None, want_grad_norm=True)
        four = split(step, batch, None, want_grad_norm=True)
        assert torch.allclose(one.loss, four.loss, rtol=1e-5)
        assert torch.allclose(one.grad_norm, four.grad_norm, rtol=1e-4)
    # Adam divides by the root of the squared gradient, which magnifies rounding where the gradient is tiny.
    for expected, got in zip(student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(expected, got, atol=1e-4)


def test_numbers_of_a_step_do_not_depend_on_the_steps_before(student, batch):
    twin = copy.deepcopy(student)
    first, second = build(student, RCGM()), build(twin, RCGM())
    before = copy.deepcopy(student.state_dict())
    first(0, batch, None)
    student.load_state_dict(before)
    assert torch.equal(first(5, batch, None).loss, second(5, batch, None).loss)


def test_steps_draw_different_numbers_and_their_micro_batches_the_same(batch):
    drawn = []

    class Draw:
        def __call__(self, student, x, cond=None, *, target, null_cond, generator, **options):
            drawn.append(torch.rand((), generator=generator).item())
            return type("Output", (), {"loss": student(x, x[:, 0], x[:, 0], cond).mean()})

    step = build(MLP(dim=2, width=8, depth=1, frequency_size=4), Draw(), accumulate=3)
    step(0, batch, None)
    step(1, batch, None)
    assert len(set(drawn)) == 2 and drawn[:3] == drawn[:1] * 3 and drawn[3:] == drawn[3:4] * 3


def test_gradient_is_clipped_to_the_norm(student, batch, regression):
    student.requires_grad_(True)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    step = TrainStep(student, regression, optimizer, Ema(student, 0.0), seed=0, clip_grad_norm=0.01)
    before = [parameter.detach().clone() for parameter in student.parameters()]
    result = step(0, batch, None)
    moved = [parameter.detach() - old for parameter, old in zip(student.parameters(), before, strict=True)]
    assert result.grad_norm > 0.01
    assert torch.stack([part.norm() for part in moved]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_average_moves_before_the_target_forwards(batch):
    seen = []

    class Look:
        def __call__(self, student, x, cond=None, *, target, null_cond, generator, **options):
            seen.append(target.output.bias.detach().clone())
            return type("Output", (), {"loss": (student(x, x[:, 0], x[:, 0], cond) - 1).square().mean()})

    student = MLP(dim=2, width=8, depth=1, frequency_size=4)
    step = build(student, Look())
    step(0, batch, None)
    after_first = student.output.bias.detach().clone()
    step(1, batch, None)
    assert torch.equal(seen[0], torch.zeros(2))
    # d = 0, then 0.45: the student after the first step is in the target of the second
    assert torch.allclose(seen[1], (1 - 0.45) * after_first)


def test_conditions_are_split_with_the_batch():
    seen = []

    class Look:
        def __call__(self, student, x, cond=None, *, target, null_cond, generator, **options):
            seen.append((cond.tolist(), null_cond.tolist()))
            return type("Output", (), {"loss": student(x, x[:, 0], x[:, 0], cond).mean()})

    student = MLP(dim=2, width=8, depth=1, frequency_size=4, num_classes=3)
    build(student, Look(), accumulate=2, null_cond=torch.tensor([3]))(0, torch.rand(4, 2), torch.tensor([0, 1, 2, 0]))
    assert seen == [([0, 2], [3]), ([1, 0], [3])]


def test_bfloat16_autocast_reaches_the_student_only_in_the_forward(batch):
    seen = []

    class Look:
        def __call__(self, student, x, cond=None, *, target, null_cond, generator, **options):
            output = student(x, x[:, 0], x[:, 0], cond)
            seen.append(output.dtype)
            return type("Output", (), {"loss": output.float().mean()})

    student = MLP(dim=2, width=8, depth=1, frequency_size=4)
    build(student, Look(), autocast=torch.bfloat16)(0, batch, None)
    assert seen == [torch.bfloat16]
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_a_cast_target_trains(student, batch, cast):
    optimizer = build_optimizer(OptimizerConfig(), student)
    step = TrainStep(student, RCGM(dt=0.1), optimizer, Ema(student, 0.9, cast=cast), seed=0, autocast=torch.bfloat16)
    losses = torch.stack([step(number, batch, None).loss for number in range(3)])
    assert torch.isfinite(losses).all()
