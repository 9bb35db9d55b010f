"""The losses of the Triton backend against the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from tests.support.cases import LossCase, every, loss_cases
from tests.support.closeness import assert_gradient_close, assert_loss_close
from tests.support.implementations import poisoned_memory
from tests.support.loss_calls import LossCall
from tests.support.triton_cases import DEVICE, check, quiet, runs


@runs
@quiet
@given(loss_cases(most_elements=20_000))
@every(100)
def test_losses_agree_with_float64(case: LossCase):
    check(case)


@runs
@quiet
@pytest.mark.parametrize("metric", [Metric(cosine=0.5), Metric("pseudo_huber", 0.1, cosine=0.5)], ids=["l2", "huber"])
@pytest.mark.parametrize("sample", [(2, 5), (3, 7, 11), (130, 2), (4, 4096), (16, 1500), (300, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_cosine_over_channels_agrees_with_float64(sample: tuple[int, ...], dtype: torch.dtype, metric: Metric):
    generator = torch.Generator().manual_seed(0)
    pred, segment, velocity = (torch.randn(2, *sample, generator=generator).to(dtype) for _ in range(3))
    times, weight = torch.tensor([[0.9, 0.8], [0.7, 0.6], [0.2, 0.6]]), torch.tensor([0.5, 2.0])
    arguments = {"segments": [segment], "velocity": velocity, "times": times, "base": None, "weight": weight}
    call = LossCall(fused_loss, pred, {**arguments, "metric": metric, "adaptive": AdaptiveWeight(0.5, 1e-3, "loss")})
    expected_loss, expected_gradient = call.upcast().run("reference")
    with poisoned_memory():
        loss, gradient = call.to(DEVICE).run("triton")
    share = 1e-11 if dtype == torch.float64 else 1e-5
    assert_loss_close(loss.cpu(), expected_loss, share)
    assert_gradient_close(gradient.cpu(), expected_gradient, 10 * share)


@runs
@quiet
@given(loss_cases(most_elements=20_000), st.sampled_from([16_385, 17_472]), st.integers(1, 2))
@every(12)
def test_losses_of_large_samples_agree_with_float64(case: LossCase, size: int, batch: int):
    check(replace(case, sample=(size,), batch=batch))


@runs
@pytest.mark.parametrize("times", [True, False])
def test_many_short_samples(times: bool):
    generator = torch.Generator().manual_seed(0)
    pred, first, last = torch.randn(3, 300, 3, generator=generator)
    pred[7], first[140, 1], last[299] = torch.nan, torch.inf, torch.nan
    knots = torch.tensor([0.9, 0.7, 0.2])[:, None].expand(3, 300)
    coeffs = torch.randn(2, 300, generator=generator)

    def run(convert, name):
        given = convert(pred).requires_grad_()
        others, options = [convert(first), convert(last)], {"reduction": "none", "clip": None, "backend": name}
        if times:
            loss = fused_loss(given, others[:1], others[1], knots.to(given.device), **options)
        else:
            loss = fused_residual_loss(given, others, coeffs.to(given.device), **options)
        return loss.detach(), torch.autograd.grad(loss.sum(), given)[0]

    expected_loss, expected_gradient = run(lambda x: x.double(), "reference")
    with poisoned_memory():
        loss, gradient = run(lambda x: x.to(DEVICE, copy=True), "triton")
    finite = torch.ones(300, dtype=torch.bool)
    finite[[7, 140, 299]] = False
    assert torch.equal(loss.cpu().isfinite(), finite)
    assert_loss_close(loss.cpu()[finite], expected_loss[finite], 1e-4)
    assert_gradient_close(gradient.cpu()[finite], expected_gradient[finite], 1e-3)


@runs
@pytest.mark.parametrize("size", [5, 17_000])
def test_a_term_without_coefficient_is_not_read(size: int):
    generator = torch.Generator().manual_seed(0)
    pred, first, second, bad = torch.randn(4, 3, size, generator=generator).to(DEVICE)
    coeffs = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.5, -1.0, 1.0]], device=DEVICE)
    own = torch.tensor([1.0, 0.0, 1.0], device=DEVICE)
    bad[:] = torch.nan

    def run(first, second, third, own, pred):
        given = pred.clone().requires_grad_()
        options = {"pred_coeff": own, "metric": "pseudo_huber", "reduction": "none", "backend": "triton"}
        loss = fused_residual_loss(given, [first, second, third], coeffs, **options)
        return loss.detach(), torch.autograd.grad(loss.sum(), given)[0]

    clean = run(first, second, bad.nan_to_num(1.0), own, pred)
    idle = (coeffs == 0)[..., None]
    spoilt = run(
        torch.where(idle[0], bad, first),
        torch.where(idle[1], bad, second),
        torch.where(idle[2], bad, torch.ones_like(bad)),
        own,
        torch.where((own == 0)[:, None], bad, pred),
    )
    assert clean[0].isfinite().all()
    for before, after in zip(clean, spoilt, strict=True):
        assert torch.equal(before, after)


@runs
@pytest.mark.skipif(DEVICE.type != "cpu", reason="only the interpreter shows what is read")
@pytest.mark.parametrize("size", [5, 17_000])
def test_memory_of_an_idle_term_is_not_touched(size: int, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    addresses, load = [], InterpreterBuilder.create_masked_load

    def spy(self, pointers, mask, *arguments):
        addresses.append(torch.from_numpy(pointers.data.astype("int64"))[torch.from_numpy(mask.data)])
        return load(self, pointers, mask, *arguments)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", spy)
    pred, first, second = (torch.ones(2, size) for _ in range(3))
    coeffs, own = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1.0, 0.0])
    fused_residual_loss(pred, [first, second], coeffs, pred_coeff=own, backend="triton")
    read = torch.cat(addresses)
    for tensor, coeff in zip((pred, first, second), (own, *coeffs), strict=True):
        for sample, used in zip(tensor, coeff != 0, strict=True):
            inside = (read >= sample.data_ptr()) & (read < sample.data_ptr() + 4 * size)
            assert len(read[inside].unique()) == (size if used else 0)


@runs
@quiet
@pytest.mark.parametrize("size", [5, 17_000])
def test_infinite_coefficients_stay_out_of_the_padding(size: int):
    pred = torch.ones(1, size, device=DEVICE)
    coeffs = torch.full((1, 1), torch.inf, device=DEVICE)
    loss = fused_residual_loss(pred, [2 * pred], coeffs, pred_coeff=0.0, clip=1.0, backend="triton")
    assert loss.item() == 1


@runs
@pytest.mark.parametrize("size", [5, 17_000])
def test_the_clamp_keeps_nan_and_bounds_infinity(size: int):
    pred = torch.zeros(3, size, device=DEVICE)
    pred[0, -1], pred[1, -1], pred[2, -1] = torch.nan, torch.inf, -torch.inf
    given = pred.requires_grad_()
    loss = fused_loss(
        given, [], torch.zeros_like(pred), torch.tensor([[0.9] * 3, [0.1] * 3], device=DEVICE), clip=2.0,
        reduction="none", backend="triton",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss.sum(), given)
    assert loss[0].isnan() and gradient[0, -1].isnan()
    torch.testing.assert_close(loss[1:].cpu(), torch.full((2,), 4 / size))
    torch.testing.assert_close(gradient[1:, -1].cpu(), torch.tensor([4 / size, -4 / size]))


@runs
def test_sums_of_very_many_chunks(monkeypatch):
    from rcgm_kernels.backends.triton import loss as module

    monkeypatch.setattr(module, "FINISHED_AT_ONCE", 4)  # so that 10 chunks take three rounds
    generator = torch.Generator().manual_seed(0)
    pred, velocity = torch.randn(2, 2, 40_001, generator=generator)
    knots = torch.tensor([[0.9, 0.5], [0.1, 0.5]])
    metric = Metric("barron", 0.5, 1.0, cosine=0.5)
    expected = fused_loss(pred.double(), [], velocity.double(), knots, metric=metric, backend="reference")
    with poisoned_memory():
        loss = fused_loss(pred.to(DEVICE), [], velocity.to(DEVICE), knots.to(DEVICE), metric=metric, backend="triton")
    assert_loss_close(loss.cpu(), expected)


@runs
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_tensors(shape: tuple[int, int], reduction: str):
    def run(name, device):
        pred = torch.zeros(shape, device=device, requires_grad=True)
        knots = torch.tensor([[0.9], [0.1]], device=device).expand(2, shape[0])
        loss = fused_loss(pred, [], torch.zeros_like(pred), knots, reduction=reduction, backend=name)
        loss.sum().backward()
        return loss.detach().cpu(), pred.grad.cpu()

    for actual, expected in zip(run("triton", DEVICE), run("reference", "cpu"), strict=True):
        torch.testing.assert_close(actual, expected, equal_nan=True)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16_384, 16_385, 40_001])
@pytest.mark.parametrize("metric", [Metric(), Metric("pseudo_huber", 0.1, cosine=0.5)])
def test_samples_of_one_program_and_of_several(size: int, metric: Metric, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(size)
    pred, first, velocity = (torch.randn(2, size, generator=generator).to(dtype) for _ in range(3))
    times = torch.tensor([[0.9, 0.5], [0.89, 0.5], [0.2, 0.5]])

    def run(convert, name):
        given = convert(pred).requires_grad_()
        loss = fused_loss(
            given, [convert(first)], convert(velocity), times.to(given.device), metric=metric, backend=name
        )
        return loss.detach(), torch.autograd.grad(loss, given)[0]

    expected_loss, expected_gradient = run(lambda x: x.double(), "reference")
    with poisoned_memory():
        loss, gradient = run(lambda x: x.to(DEVICE, copy=True), "triton")
    assert_loss_close(loss.cpu(), expected_loss)
    assert_gradient_close(gradient.cpu(), expected_gradient)


@runs
@quiet
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [5, 20_000])
def test_a_bad_sample_stays_alone(size: int, bad: float):
    generator = torch.Generator().manual_seed(0)
    pred, velocity = (torch.randn(3, size, generator=generator).to(DEVICE) for _ in range(2))
    times = torch.tensor([[0.9] * 3, [0.1] * 3], device=DEVICE)

    def run(values):
        values = values.clone().requires_grad_()
        loss = fused_loss(values, [], velocity, times, clip=None, reduction="none", backend="triton")
        return loss.detach(), torch.autograd.grad(loss.sum(), values)[0]

    clean_loss, clean_gradient = run(pred)
    pred[1, size // 2] = bad
    loss, gradient = run(pred)
    assert not torch.isfinite(loss[1])
    for sample in (0, 2):
        assert torch.equal(loss[sample], clean_loss[sample])
        assert torch.equal(gradient[sample], clean_gradient[sample])
