"""Tensors that are not what their memory holds: views with the negative bit, zero tensors that have no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rcgm_kernels import Metric, advance, ema_update_, fused_loss, fused_regression, fused_residual_loss, interpolate
from rcgm_kernels.options import LossOptions
from tests.support.implementations import all_implementations, running

OPS = torch.ops.rcgm_kernels


def negated(values: Tensor) -> Tensor:
    """``values``, whose memory holds their negatives."""
    return torch._neg_view(values.neg())


def conjugate(values: Tensor) -> Tensor:
    """``values`` as the imaginary part of a conjugate: the negative bit, and samples that are not dense."""
    return torch.complex(values, -values).conj().imag


def zero(values: Tensor) -> Tensor:
    return torch._efficientzerotensor(values.shape, dtype=values.dtype)


FORMS = {"negative": negated, "conjugate": conjugate, "zero": zero}


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss(pred: Tensor, segment: Tensor, base: Tensor, velocity: Tensor, times: Tensor, weight: Tensor, **options: Any):
    return fused_loss(pred, [segment], velocity, times, base=base, weight=weight, reduction="none", **options)


def tangent(pred: Tensor, term: Tensor, normalize_scale: Tensor, **options: Any) -> Tensor:
    return fused_residual_loss(pred, [term], [1.0], normalize=0.1, normalize_scale=normalize_scale, **options)


def residual(pred: Tensor, term: Tensor, coeffs: Tensor, pred_coeff: Tensor, scale: Tensor, **options: Any) -> Tensor:
    metric = Metric("pseudo_huber", c=0.1, cosine=0.5)
    return fused_residual_loss(pred, [term], coeffs, pred_coeff=pred_coeff, scale=scale, metric=metric, **options)


def average(ema: Tensor, param: Tensor, **options: Any) -> Tensor:
    averages, copy = ema.clone(), torch.zeros(ema.shape, dtype=torch.bfloat16)
    ema_update_([averages], [param], 0.75, [copy], **options)
    return torch.stack([averages, copy])


def step(x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, **options: Any) -> Tensor:
    out = torch.full(x.shape, torch.nan)
    assert torch.equal(advance(x, velocity, t, r, out=out, **options), out)
    return out


def raw_points(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, backend: str) -> Tensor:
    return OPS.interpolate(x, z, alpha, gamma, torch.float32, backend)


def raw_loss(pred: Tensor, term: Tensor, coeffs: Tensor, weight: Tensor, backend: str) -> Tensor:
    options = LossOptions(
        times=False, pred_in_residual=True, clip=1.0, metric=Metric(), normalize=None, adaptive=None, reduce="mean",
        reduction="none", with_gradient=True,
    ).flat()  # fmt: skip
    losses, gradient, _ = OPS.residual_loss(pred, [term], coeffs, None, None, weight, None, *options, backend)
    return torch.cat([losses[:, None], gradient], 1)


KNOTS = torch.tensor([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3], [0.0, 0.0, 0.0]])
X, Z, V = draw(3, 8), draw(3, 8, seed=1), draw(3, 8, seed=2)
T, R, C = draw(3, seed=3).abs() + 0.5, draw(3, seed=4).abs(), draw(1, 3, seed=5)
CASES: list[tuple[Callable[..., Tensor], dict[str, Tensor]]] = [
    (loss, {"pred": X, "segment": Z, "base": V, "velocity": X + Z, "times": KNOTS, "weight": T}),
    (residual, {"pred": X, "term": Z, "coeffs": C, "pred_coeff": T, "scale": R}),
    (tangent, {"pred": X, "term": Z, "normalize_scale": T}),
    (fused_regression, {"pred": X, "target": Z, "weight": T}),
    (interpolate, {"x": X, "z": Z, "alpha": C, "gamma": C + 1}),
    (step, {"x": X, "velocity": Z, "t": T, "r": R}),
    (average, {"ema": X, "param": Z}),
    (raw_points, {"x": X, "z": Z, "alpha": C, "gamma": C + 1}),
    (raw_loss, {"pred": X, "term": Z, "coeffs": C, "weight": T}),
]
NEVER_ZERO = {"times", "ema"}  # knots that are all 0 are a case of their own; an average of 0 is copied first
EACH = [
    (form, call, arguments, name)
    for form in FORMS
    for call, arguments in CASES
    for name in arguments
    if form != "zero" or name not in NEVER_ZERO
]


@pytest.mark.parametrize("implementation", all_implementations())
@pytest.mark.parametrize(
    ("form", "call", "arguments", "name"), EACH, ids=[f"{form}-{call.__name__}-{name}" for form, call, _, name in EACH]
)
def test_every_argument_of_every_operation(implementation, form, call, arguments, name):
    lazy = FORMS[form](arguments[name])
    plain = arguments[name] * (form != "zero")
    assert lazy.is_neg() or lazy._is_zerotensor()
    with running(implementation) as backend:
        expected = call(**{**arguments, name: plain}, backend=backend)
        assert torch.equal(call(**{**arguments, name: lazy}, backend=backend), expected)


@pytest.mark.parametrize("implementation", all_implementations())
@pytest.mark.parametrize("form", ["negative", "zero"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_of_lazy_predictions(implementation, form, dtype):
    results = []
    with running(implementation) as backend:
        for lazy in (False, True):
            leaf = draw(3, 8, dtype=dtype).requires_grad_()
            if form == "zero":
                pred = leaf * (zero(leaf) if lazy else 0)
            else:
                pred = negated(leaf) if lazy else leaf
            fused_regression(pred, Z, backend=backend).mul(3).backward()
            results.append(leaf.grad)
    assert torch.equal(*results)


@pytest.mark.parametrize("implementation", all_implementations())
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kept", [False, True])
def test_lazy_upstream_gradients(implementation, form, reduction, kept):
    gradients = []
    with running(implementation) as backend:
        for lazy in (True, False):
            leaf = X.clone().requires_grad_()
            value = fused_regression(leaf, Z, reduction=reduction, backend=backend)
            upstream = torch.full(value.shape, 0.75, dtype=value.dtype)
            upstream = FORMS[form](upstream) if lazy else upstream * (form != "zero")
            (gradient,) = torch.autograd.grad(value, leaf, upstream, retain_graph=kept)
            gradients.append(gradient)
            points = interpolate(leaf, Z, [0.5], [2.0], backend=backend)
            upstream = FORMS[form](V[None]) if lazy else V[None] * (form != "zero")
            gradients.append(torch.autograd.grad(points, leaf, upstream)[0])
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


@pytest.mark.parametrize("form", ["negative", "zero"])
def test_outputs_are_not_written_where_nothing_reads_them(form):
    out, kind = FORMS[form](torch.ones(3, 8)), {"negative": "negative bit", "zero": "zeros without memory"}[form]
    with pytest.raises(ValueError, match=f"out must hold its own elements to be written in place, got .*{kind}"):
        advance(X, Z, T, R, out=out)
    with pytest.raises(ValueError, match=r"ema_params\[0\] must hold its own elements"):
        ema_update_([out], [X], 0.5)
    with pytest.raises(ValueError, match=r"cast_to\[1\] must hold its own elements"):
        ema_update_([X.clone(), X.clone()], [Z, Z], 0.5, [Z.clone(), out])
    for call in (
        lambda: OPS.ema_update_([out], [X], 0.5, [], ""),
        lambda: OPS.advance_(out, X, Z, T, R, ""),
        lambda: OPS.scale_gradient_(out, T, T[:0], ""),
    ):
        with pytest.raises(RuntimeError):
            call()
