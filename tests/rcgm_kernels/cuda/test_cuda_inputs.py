"""What the CUDA losses read, and in which layout: bad samples, idle terms, strides, empty tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcgm_kernels.backends import cuda, reference
from rcgm_kernels.inputs import LossInputs
from tests.support.cuda_cases import (
    BF16,
    CHANNELS,
    F16,
    F32,
    F64,
    L2,
    METRICS,
    Case,
    Place,
    assert_same,
    check_loss,
    loss_by,
    moved,
)


@pytest.mark.parametrize("size", [3, 40, 1000, 3000, 40000])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_samples_do_not_touch_each_other(place: Place, metric: str, size: int) -> None:
    case = Case(6, size, (F32,) * 3, weight=True, reduction="none", **METRICS[metric])
    inputs = case.inputs()
    clean_loss, clean_gradient = (out.clone() for out in check_loss(place, case, inputs))
    inputs.pred[1, size // 2] = math.nan
    inputs.terms[1][2, 0] = math.inf
    inputs.scalars[0, 3] = math.nan
    inputs.weight[4] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    for sample in (0, 5):
        assert torch.equal(loss[sample], clean_loss[sample])
        assert torch.equal(gradient[sample], clean_gradient[sample])
    assert loss[[1, 3, 4]].isnan().all()
    assert gradient[3].isnan().all()


@pytest.mark.parametrize("size", [12, 900, 5000])
def test_terms_with_coefficient_zero_are_not_read(place: Place, size: int) -> None:
    case = Case(5, size, (BF16, BF16, F32, BF16), pred_coeff=True, reduction="none")
    inputs = case.inputs()
    inputs.scalars[:, 0] = 0  # nothing but the prediction
    inputs.pred_coeff[1] = 0  # no anchor
    inputs.pred[1] = math.nan
    for k, term in enumerate(inputs.terms):
        term[inputs.scalars[k] == 0] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert not loss.isnan().any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("size", [12, 5000])
def test_unneeded_segments_and_prediction_are_not_read(place: Place, size: int) -> None:
    case = Case(4, size, (F16,) * 5, times=True, pred_in_residual=False, reduction="none", **METRICS["pseudo_huber"])
    inputs = case.inputs()
    inputs.pred.fill_(math.nan)
    for segment in inputs.terms[1:-1]:
        segment[::3] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert not loss.isnan().any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("order", [0, 2])
def test_knots_unordered_or_not_finite_give_nan_in_their_sample(
    place: Place, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    monkeypatch.setattr(reference.checks, "ordered_times", lambda *_: None)  # the reference gives NaN too, unasked
    case = Case(6, 40, (F32,) * (order + 2), times=True, reduction="none")
    inputs = case.inputs()
    inputs.scalars[order + 1, 1] = 2.0
    inputs.scalars[0, 2] = math.inf
    inputs.scalars[order + 1, 4] = -math.inf
    inputs.scalars[:, 5] = math.inf
    loss, gradient = check_loss(place, case, inputs)
    assert loss.isnan().tolist() == [False, True, True, False, True, True]
    assert gradient.isnan().any(1).tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("size", [2, 64, 900, 5000])
@pytest.mark.parametrize("metric", ["l2", "cosine", "channels", "normalized", "pseudo_huber"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_sample_of_weight_zero_is_not_read(place: Place, metric: str, size: int, reduction: str) -> None:
    extras = CHANNELS | {"channels": 2} if metric == "channels" else METRICS[metric]
    case = Case(5, size, (F16,) * 3, pred_coeff=True, scale=True, weight=True, reduction=reduction, **extras)
    inputs = case.inputs()
    inputs.weight[torch.tensor([1, 4])] = 0
    for tensor in (inputs.pred, *inputs.terms):
        tensor[1], tensor[4] = math.nan, math.inf
    for numbers in (inputs.scalars.T, inputs.pred_coeff, inputs.scale):
        numbers[1], numbers[4] = math.inf, math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert loss.isfinite().all()
    assert (gradient[[1, 4]] == 0).all() and (gradient[0] != 0).any()


def strided(tensor: Tensor, how: str) -> Tensor:
    batch, size = tensor.shape
    if how == "slice of a larger batch":
        wide = torch.full((2 * batch, size), math.nan, dtype=tensor.dtype, device=tensor.device)
        wide[::2] = tensor
        return wide[::2]
    if how == "expanded":
        return tensor[:1].expand(batch, size)
    if how == "misaligned":
        flat = torch.full((batch * size + 1,), math.nan, dtype=tensor.dtype, device=tensor.device)
        flat[1:] = tensor.reshape(-1)
        return flat[1:].view(batch, size)
    if how == "misaligned rows":
        wide = torch.full((batch, size + 1), math.nan, dtype=tensor.dtype, device=tensor.device)
        wide[:, :size] = tensor
        return wide[:, :size]
    assert how == "transposed"
    return tensor.t().contiguous().t()


@pytest.mark.parametrize("how", ["slice of a larger batch", "expanded", "misaligned", "misaligned rows", "transposed"])
@pytest.mark.parametrize("dtype", [BF16, F32, F64])
@pytest.mark.parametrize("size", [64, 6000])
def test_strides(place: Place, size: int, dtype: torch.dtype, how: str) -> None:
    case = Case(4, size, (dtype,) * 4, **METRICS["cosine"])
    inputs = case.inputs()
    inputs.terms[1] = strided(inputs.terms[1], how)
    check_loss(place, case, inputs)
    check_loss(place, replace(case, metric=L2, adaptive=None), inputs)
    inputs = inputs._replace(pred=strided(inputs.pred, how))
    check_loss(place, replace(case, batch=4), inputs)


@pytest.mark.parametrize("size", [2049, 2051, 4097, 20003])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rest_of_a_single_sample_behind_the_vectors(place: Place, metric: str, size: int) -> None:
    check_loss(place, Case(1, size, (BF16,) * 3, **METRICS[metric]))
    check_loss(place, Case(1, size % 100, (BF16,) * 3, **METRICS[metric]))


def test_numbers_may_have_any_stride(place: Place) -> None:
    case = Case(6, 48, (F32,) * 4, pred_coeff=True, scale=True, weight=True)
    inputs = moved(case.inputs(), place.device)
    contiguous = loss_by(cuda, case, inputs)
    spaced = {
        name: torch.stack([values, values + 1], 1)[:, 0]
        for name, values in inputs.per_sample().items()
        if name != "scalars"
    }
    inputs = inputs._replace(scalars=inputs.scalars.t().contiguous().t(), **spaced)
    assert_same(contiguous, loss_by(cuda, case, inputs))


@pytest.mark.parametrize(("batch", "size"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_tensors(place: Place, batch: int, size: int, reduction: str) -> None:
    case = Case(batch, size, (F32,) * 2, reduction=reduction)
    inputs = LossInputs(torch.zeros(batch, size), [torch.zeros(batch, size)], torch.ones(1, batch), *[None] * 4)
    loss, gradient, _ = loss_by(cuda, case, moved(inputs, place.device))
    want, *_ = loss_by(reference, case, inputs)
    assert torch.equal(loss.cpu().nan_to_num(nan=-7.0), want.nan_to_num(nan=-7.0))
    assert gradient.shape == (batch, size)
    empty, numbers = torch.zeros(batch, size, device=place.device), torch.ones(batch, device=place.device)
    cuda.scale_gradient_(empty, numbers.new_ones(()), numbers[:0])
    cuda.advance_(empty, empty, empty, numbers, numbers)
    assert cuda.interpolate(empty, empty, numbers[None], numbers[None], BF16).shape == (1, batch, size)
    cuda.ema_update_([empty], [empty], 0.5, [])
    cuda.ema_update_([], [], 0.5, [])
