"""Every way to run the losses on a CPU against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from rcgm_kernels import Metric, fused_loss, fused_residual_loss
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import HALVES, LossCase, every, loss_cases
from tests.support.closeness import assert_gradient_close, assert_loss_close
from tests.support.implementations import cpu_implementations, poisoned_memory, running, threads
from tests.support.loss_calls import LossCall

FLOATS_32 = (torch.float32, *HALVES)


def assert_agrees(case: LossCase, shrink: float = 1.0) -> None:
    """All implementations give the loss and the gradient of the reference in float64, and write every element."""
    call = case.call()
    expected_loss, expected_gradient = call.upcast().run("reference")
    rounding = call.rounding() * shrink
    double = any(tensor.dtype == torch.float64 for tensor in call.states())
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            loss, gradient = call.run(backend)
        assert loss.dtype == (torch.float64 if double else torch.float32), implementation
        assert gradient.dtype == call.pred.dtype, implementation
        assert loss.shape == expected_loss.shape, implementation
        assert_loss_close(loss, expected_loss, rounding)
        assert_gradient_close(gradient, expected_gradient, 10 * rounding)


@given(loss_cases(FLOATS_32))
@every(400)
def test_float32_arithmetic_agrees_with_float64(case):
    assert_agrees(case)


@given(loss_cases(FLOATS_32, most_elements=2000))
@every(200)
def test_small_samples_agree(case):
    assert_agrees(case)


@given(loss_cases((torch.float64, torch.float32, torch.float64), most_elements=50_000))
@every(100)
def test_one_float64_tensor_makes_the_arithmetic_float64(case):
    double = any(tensor.dtype == torch.float64 for tensor in case.call().states())
    assert_agrees(case, shrink=1e-7 if double else 1.0)


@pytest.mark.parametrize("metric", [Metric("l2"), Metric("pseudo_huber", c=0.1, cosine=0.5)], ids=["l2", "huber"])
@pytest.mark.parametrize(
    ("batch", "size", "dtype"), [(1, 3_000_001, torch.float32), (2, 1_500_003, torch.bfloat16)], ids=["one", "two"]
)
def test_huge_samples_agree(batch, size, dtype, metric):
    generator = torch.Generator().manual_seed(0)
    pred, segment, velocity = (torch.randn(batch, size, generator=generator).to(dtype) for _ in range(3))
    times = torch.tensor([[0.9], [0.89], [0.1]]).expand(3, batch)

    call = LossCall(
        fused_loss, pred, {"segments": [segment], "velocity": velocity, "times": times, "base": None, "metric": metric}
    )
    expected_loss, expected_gradient = call.upcast().run("reference")
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            loss, gradient = call.run(backend)
        assert_loss_close(loss, expected_loss)
        assert_gradient_close(gradient, expected_gradient)


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", FLOATS_32)
@pytest.mark.parametrize("size", [512, 4096, 16384])
def test_equal_residuals_do_not_add_up_their_rounding(implementation, dtype, size):
    # Saturated residuals are all of one size: each addition to a float32 sum then rounds the same way.
    pred, term, clip = torch.ones(1, size, dtype=dtype), torch.zeros(1, size, dtype=dtype), 0.0707
    for coefficient in (-1.0, 0.5):  # coefficients that add up to 0, and that do not
        with running(implementation) as backend:
            loss = fused_residual_loss(pred, [term], torch.tensor([[coefficient]]), clip=clip, backend=backend)
        assert loss.item() == pytest.approx(clip**2, rel=1e-5)


@given(loss_cases(most_elements=200_000))
@every(40)
def test_results_do_not_depend_on_the_thread_count(case):
    call = case.call()
    for implementation in cpu_implementations()[1:]:
        with running(implementation) as backend:
            results = []
            for count in (1, 2, 3):
                with threads(count):
                    results.append(call.run(backend))
        for loss, gradient in results[1:]:
            assert torch.equal(loss.nan_to_num(-1), results[0][0].nan_to_num(-1)), implementation
            assert torch.equal(gradient.nan_to_num(-1), results[0][1].nan_to_num(-1)), implementation


@given(loss_cases(FLOATS_32, most_elements=20_000))
@every(40)
def test_without_gradient_the_loss_is_the_same(case):
    call = case.call()
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            loss, _ = call.run(backend)
            with torch.no_grad():
                plain = call.function(call.pred.requires_grad_(), **call.arguments, backend=backend)
        assert not plain.requires_grad
        torch.testing.assert_close(plain, loss, rtol=1e-6, atol=0, equal_nan=True)


def test_poisoned_memory_is_poisoned():
    # What the other tests rely on to see elements that nobody wrote.
    with poisoned_memory():
        for dtype in STORAGE_DTYPES:
            assert torch.empty(100, dtype=dtype).isnan().all()
            assert torch.empty_like(torch.zeros(100, dtype=dtype)).isnan().all()
