"""What one sample holds is its own affair, and what has coefficient 0 is not read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rcgm_kernels import Metric, fused_loss, fused_residual_loss
from tests.support.cases import HALVES, LossCase, every, loss_cases
from tests.support.implementations import cpu_implementations, running
from tests.support.loss_calls import LossCall

BAD = (math.nan, math.inf, -math.inf)


def rows_of(case: LossCase) -> LossCall:
    """The call of ``case``, each tensor with memory of its own for each sample, and a loss for each sample."""
    dense = replace(case, layouts=("dense",), stacked=False, reduction="none")
    return dense.call()


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit, NaN for NaN."""
    return actual.shape == expected.shape and bool(((actual == expected) | (actual.isnan() & expected.isnan())).all())


@given(loss_cases(most_elements=100_000), st.sampled_from(BAD), st.randoms(use_true_random=False))
@every(120)
def test_a_bad_sample_changes_no_other(case, value, random):
    case = replace(case, batch=max(case.batch, 2))
    assume(math.prod(case.sample))
    clean, dirty = rows_of(case), rows_of(case)
    bad = random.randrange(case.batch)
    others = [b for b in range(case.batch) if b != bad]
    for tensor in random.sample(dirty.states(), k=random.randint(1, len(dirty.states()))):
        row = tensor[bad].view(-1)
        row[random.randrange(len(row))] = value
    for name in ("coeffs", "scale", "weight"):
        if dirty.arguments.get(name) is not None and random.random() < 0.3:
            dirty.arguments[name][..., bad] = value
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            expected_loss, expected_gradient = clean.run(backend)
            loss, gradient = dirty.run(backend)
            _, gradient_of_mean = dirty.with_options(reduction="mean").run(backend)
            _, expected_of_mean = clean.with_options(reduction="mean").run(backend)
        assert same(loss[others], expected_loss[others]), implementation
        assert same(gradient[others], expected_gradient[others]), implementation
        assert same(gradient_of_mean[others], expected_of_mean[others]), implementation


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_nan_reaches_the_loss_of_its_sample(implementation):
    # The clamp must not hide it.
    for position in (0, 511, 5000, 16384):
        pred = torch.zeros(3, 16385)
        pred[1, position] = math.nan
        times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
        for metric in (Metric(), Metric("pseudo_huber", cosine=1.0)):
            leaf = pred.clone().requires_grad_()
            with running(implementation) as backend:
                loss = fused_loss(
                    leaf, [], torch.ones(3, 16385), times, metric=metric, reduction="none", backend=backend
                )
                loss.sum().backward()
            assert loss.isnan().tolist() == [False, True, False]
            assert leaf.grad[1, position].isnan()
            assert not leaf.grad[::2].isnan().any()


@given(loss_cases(most_elements=100_000), st.sampled_from(BAD))
@every(120)
def test_what_has_coefficient_zero_may_hold_anything(case, value):
    call = replace(case, layouts=("dense",), stacked=False).call()
    dirty = replace(case, layouts=("dense",), stacked=False).call()
    if case.knots is None:
        segments, idle = dirty.arguments["terms"], dirty.arguments["coeffs"] == 0
    else:
        t = dirty.arguments["times"]
        segments, idle = dirty.arguments["segments"], t[1:-1] == t[2:]
    assume(idle.any())
    for tensor, unread in zip(segments, idle, strict=True):
        tensor[unread] = value
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            expected_loss, expected_gradient = call.run(backend)
            loss, gradient = dirty.run(backend)
        assert same(loss, expected_loss), implementation
        assert same(gradient, expected_gradient), implementation


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("metric", ["l2", "pseudo_huber"])
def test_a_prediction_with_coefficient_zero_may_hold_anything(implementation, dtype, metric):
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(2, 3, 700, generator=generator).to(dtype)
    coeffs = torch.randn(2, 3, generator=generator)
    results = []
    for value in (0.0, math.nan):
        for pred_coeff in (0.0, torch.tensor([0.0, 1.0, 0.0])):
            pred = torch.full((3, 700), value, dtype=dtype)
            pred[1] = 1
            pred.requires_grad_()
            with running(implementation) as backend:
                loss = fused_residual_loss(
                    pred, terms, coeffs, pred_coeff=pred_coeff, metric=metric, reduction="none", backend=backend
                )
                loss.sum().backward()
            results.append((loss.detach(), pred.grad))
    for (loss, gradient), (expected_loss, expected_gradient) in zip(results[2:], results[:2], strict=True):
        assert not loss.isnan().any()
        assert same(loss, expected_loss)
        assert same(gradient, expected_gradient)


@given(loss_cases(most_elements=60_000), st.sampled_from(BAD), st.randoms(use_true_random=False))
@every(100)
def test_a_sample_of_weight_zero_may_hold_anything(case, value, random):
    case = replace(case, batch=max(case.batch, 2), weighted=True, layouts=("dense",), stacked=False)
    clean, dirty = case.call(), case.call()
    out = random.randrange(case.batch)
    for call in (clean, dirty):
        call.arguments["weight"][out] = random.choice([0.0, -0.0])
    for tensor in dirty.states():
        tensor[out] = value
    for name in ("coeffs", "scale", "pred_coeff", "times", "normalize_scale"):
        if isinstance(dirty.arguments.get(name), torch.Tensor):
            dirty.arguments[name][..., out] = value
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            expected_loss, expected_gradient = clean.run(backend)
            loss, gradient = dirty.run(backend)
        assert same(loss, expected_loss), implementation
        assert same(gradient, expected_gradient), implementation
        assert (gradient[out] == 0).all()
        if case.reduction == "none":
            assert loss[out] == 0


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_a_mean_counts_samples_of_weight_zero(implementation):
    pred, times = torch.ones(4, 3), torch.tensor([[0.9], [0.1]]).expand(2, 4)
    with running(implementation) as backend:
        loss = fused_loss(pred, [], torch.zeros(4, 3), times, weight=torch.tensor([1.0, 0, 0, 0]), backend=backend)
    assert loss.item() == 0.25


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("place", [(0, 1), (-1, 1), (slice(None), 1)])
@pytest.mark.parametrize("order", [0, 2])
def test_infinite_knots_are_refused(implementation, order, place):
    times = torch.linspace(1, 0, order + 2)[:, None].repeat(1, 3)
    times[place] = math.inf if place[0] == 0 else -math.inf
    pred = torch.ones(3, 4)
    with running(implementation) as backend:
        with pytest.raises(ValueError, match=r"times must fall .* finite, .* sample 1 has"):
            fused_loss(pred, [pred] * order, pred, times, backend=backend)
        fused_loss(pred, [pred] * order, pred, times, weight=torch.tensor([1.0, 0.0, 1.0]), backend=backend)
