"""The parts of the fidelity benchmark, small."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import fidelity, random_dit
from rcgm.derivatives import Central, ForwardMode


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WIDTH": 16, "HEADS": 2, "DEPTH": 2}.items():
        monkeypatch.setattr(random_dit, name, value)


def test_the_truth_and_its_estimates(small):
    problem = fidelity.with_exact(fidelity.random_problem("high"))
    assert problem.error(problem.network, ForwardMode(), torch.float32) < 1e-4
    errors = [problem.error(problem.network, Central(step), torch.float32) for step in (0.1, 0.05)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_a_whole_row(small):
    problem, other = (fidelity.random_problem("high", seed=seed) for seed in (1, 2))
    row = fidelity.measured(fidelity.with_exact(problem), other, torch.bfloat16)
    assert row["auto_to_best"] < 2
    assert row["best"]["central"]["error"] < row["papers_step"]


def test_nothing_is_asked_twice():
    asked = []

    def network(x, t, r, cond):
        asked.append(len(x))
        return x * t[:, None]

    remembered = fidelity.Remembered(network)
    x, t = torch.randn(4, 3), torch.rand(4)
    first = remembered(x, t, t, None)
    again = remembered(torch.cat([x, x + 1]), torch.cat([t, t]), torch.cat([t, t]), None)
    assert asked == [4, 4]
    assert torch.equal(again[:4], first)
    assert torch.equal(again[4:], (x + 1) * t[:, None])


def test_dithering_is_right_on_average_and_the_same_for_both_halves():
    value = torch.full((20_000,), 1.0 + 0.3 / 128)
    rounded = random_dit.Dithered(shared=False)(value)
    assert set(rounded.tolist()) == {1.0, 1.0 + 1 / 128}
    assert rounded.mean().item() == pytest.approx(value[0].item(), abs=1e-4)
    assert not torch.equal(*rounded.chunk(2))
    assert torch.equal(*random_dit.Dithered(shared=True)(value).chunk(2))
    assert torch.equal(random_dit.to_nearest(value), torch.ones(20_000))


def test_the_residual_is_flow_matching_for_one_gap(small):
    problem = fidelity.random_problem("low")
    zeta = fidelity.recursive_residual(problem, 1.0, torch.float64, torch.float64)
    predicted = problem.network(problem.x, problem.t, problem.r)
    torch.testing.assert_close(zeta.float(), predicted - problem.velocity, rtol=1e-3, atol=1e-3)
