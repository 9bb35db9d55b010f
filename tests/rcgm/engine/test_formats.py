"""Mixed number formats under autocast: formulas and the joining of batches are not touched by it."""

import itertools

import pytest
import torch
from torch import nn

from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.engine.formats import joined, without_autocast
from rcgm.objectives import OBJECTIVES, EnhancedTarget
from rcgm.sampling import sample_any_step

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ESTIMATORS = {
    "central": Central(),
    "order 4": Central(order=4),
    "one_sided": OneSided(),
    "jvp": ForwardMode(),
    "auto": lambda: Auto(every=1),
}
BATCH = 8


class Network(nn.Module):
    """Linear layers, which autocast runs in half precision, and a condition of features."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 3)])
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.3, generator=generator)

    def forward(self, x, t, r, cond):
        shift = 0 if cond is None else cond.to(x.dtype)
        hidden = self.layers[0](torch.cat([(x + shift).float(), t[:, None]], 1))
        return self.layers[1](torch.tanh(hidden) + r[:, None].to(hidden.dtype))


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, generator=generator)
    return x, torch.randn(BATCH, 3, generator=generator).to(dtype), torch.zeros(1, 3, dtype=dtype)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_targets_in_one_half_format_and_steps_in_the_other(name, estimator):
    derivative = ESTIMATORS[estimator]
    x, cond, null = batch()
    for target_dtype, precision in itertools.permutations(HALVES):
        objective = OBJECTIVES[name](
            derivative=derivative() if callable(derivative) else derivative,
            target_dtype=target_dtype,
            guidance=EnhancedTarget(0.5),
            label_dropout=0.2,
        )
        student = Network()
        for step in range(3):  # the first call of auto, a later one, and one that measures
            with torch.autocast("cpu", HALVES[precision]):
                out = objective(
                    student, x, cond, null_cond=null, generator=torch.Generator().manual_seed(step), step=step
                )
            out.loss.backward()
        assert out.loss.isfinite() and all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_conditions_in_the_other_half_format(name):
    student = Network()
    x, cond, null = batch(torch.float16)
    objective = OBJECTIVES[name](guidance=EnhancedTarget(0.5), label_dropout=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        out = objective(student, x, cond, null_cond=null, generator=torch.Generator().manual_seed(0))
    assert out.loss.isfinite()


def test_a_guided_sampler_with_conditions_in_the_other_half_format():
    x, cond, null = batch(torch.float16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        samples = sample_any_step(Network(), x, cond, steps=2, guidance=1.5, null_cond=null)
    assert samples.isfinite().all()


def test_joined_and_without_autocast():
    halves = [torch.ones(2, dtype=torch.float16), torch.zeros(1, dtype=torch.float16)]
    with torch.autocast("cpu", torch.bfloat16):
        assert joined(halves).tolist() == [1, 1, 0] and joined(halves[:1]) is halves[0]
        with without_autocast():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.stack(halves[:1]).dtype == torch.float16
        assert torch.is_autocast_enabled("cpu")
    with without_autocast():
        assert not torch.is_autocast_enabled("cpu")
