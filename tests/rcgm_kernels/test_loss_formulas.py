"""The losses are what math.md says: computed by hand, by order, and as a regression."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from rcgm_kernels.layout import batched
from tests.support.cases import METRICS, every, knots, loss_cases
from tests.support.loss_calls import LossCall

BACKENDS = ("cpu", "reference")


def residual(call: LossCall) -> Tensor:
    """``R`` before the tangent normalisation."""
    tensors, coeffs = call.combination()
    clip, scale = call.arguments["clip"], call.arguments.get("scale")
    combined = (coeffs.reshape(*coeffs.shape, *[1] * (tensors.ndim - 2)) * tensors).sum(0)
    combined = combined if clip is None else combined.clamp(-clip, clip)
    return combined if scale is None else batched(scale, combined) * combined


def rho(metric: Metric, m: Tensor) -> Tensor:
    """Pseudo-Huber as Song & Dhariwal 2023 write it, Barron as equation 13 of Barron 2019, both of ``m = x^2``."""
    c, alpha = metric.c, metric.alpha
    if metric.name == "l2":
        return m
    if metric.name == "pseudo_huber":
        return (m + c**2).sqrt() - c
    if metric.name == "barron_reweighting":
        base = m.detach() / (c**2 + 1e-8)
        weight = (-base / 2).exp() if alpha == -math.inf else (base / (abs(alpha - 2) or 1) + 1) ** (alpha / 2 - 1)
        return weight * m / c
    x = m / c**2
    if alpha == 2:
        return x / 2
    if alpha == 0:
        return (x / 2 + 1).log()
    if alpha == -math.inf:
        return 1 - (-x / 2).exp()
    return abs(alpha - 2) / alpha * ((x / abs(alpha - 2) + 1) ** (alpha / 2) - 1)


def regression(call: LossCall) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum, of a regression on ``stop_gradient(pred - R)``."""
    given, r = call.arguments, residual(call)
    if given.get("normalize") is not None:
        r = r / (batched(r.reshape(len(r), -1).norm(dim=1), r) + given["normalize"])
        if given["normalize_scale"] is not None:
            r = batched(torch.as_tensor(given["normalize_scale"]), r) * r
    pred = call.pred.detach().clone().requires_grad_()
    target = (pred - r).detach()
    squares = (pred - target).square().reshape(len(pred), -1)
    losses = rho(given["metric"], squares.mean(1) if given["reduce"] == "mean" else squares.sum(1))
    if given["metric"].cosine:
        whole = given["metric"].cosine_dim == "sample" or pred.ndim < 2
        vectors = [tensor.flatten(1) if whole else tensor for tensor in (pred, target)]
        distance = 1 - cosine_similarity(*vectors, dim=1)
        losses = losses + given["metric"].cosine * distance.reshape(len(pred), -1).mean(1)
    adaptive = AdaptiveWeight.from_value(given["adaptive"])
    if adaptive is not None:
        size = losses.detach() if adaptive.of == "loss" else squares.sum(1).detach()
        losses = losses / (size + adaptive.eps) ** adaptive.power
    if given["weight"] is not None:
        losses = losses * given["weight"]
    loss = {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[given["reduction"]]()
    loss.sum().backward()
    return loss.detach(), pred.grad


@given(loss_cases((torch.float64,), most_elements=20_000))
@every(200)
def test_loss_and_gradient_are_those_of_a_regression(case):
    assume(case.batch and math.prod(case.sample))
    call = case.call().upcast()
    r = residual(call)
    assume((r.reshape(len(r), -1) != 0).any(1).all())  # autograd has no gradient for the root of 0
    expected_loss, expected_gradient = regression(call)
    for backend in BACKENDS:
        loss, gradient = call.run(backend)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-8, atol=1e-12)
        scale = expected_gradient.abs().max().item()
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-8 * scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("times", "segments", "clip", "residual"),
    [
        # (1/0.25) (0.75 * 2 - 0.5 * 1) - 0.5, with and without the clamp
        ((1.0, 0.75, 0.25), (1.0,), None, 3.5),
        ((1.0, 0.75, 0.25), (1.0,), 1.0, 1.0),
        # (1/0.125) (1 * 2 - 0.375 * 3 - 0.5 * 1.5) - 0.5
        ((1.0, 0.875, 0.5, 0.0), (3.0, 1.5), None, 0.5),
        # flow matching: 2 - 0.5
        ((1.0, 0.25), (), None, 1.5),
        ((1.0, 0.25, 0.25), (100.0,), None, 1.5),
        ((0.25, 0.25, 0.25), (100.0,), None, 1.5),
    ],
)
def test_by_hand(backend, times, segments, clip, residual):
    pred = torch.full((2, 3), 2.0, requires_grad=True)
    terms = [torch.full((2, 3), value) for value in segments]
    knots_of_both = torch.tensor(times)[:, None].repeat(1, 2)
    loss = fused_loss(pred, terms, torch.full((2, 3), 0.5), knots_of_both, clip=clip, backend=backend)
    loss.backward()
    assert loss.item() == residual**2
    torch.testing.assert_close(pred.grad, torch.full((2, 3), 2 * residual / 6))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [*range(17), 30])
def test_every_order_is_the_estimate_minus_the_velocity(backend, order):
    generator = torch.Generator().manual_seed(order)
    pred, velocity, *segments = torch.randn(2 + order, 4, 6, generator=generator, dtype=torch.float64)
    times = knots(["usual", "long_step"], order, 4, generator)
    estimate = (times[0] - times[-1])[:, None] * pred
    for i, segment in enumerate(segments, start=1):
        estimate = estimate - (times[i] - times[i + 1])[:, None] * segment
    zeta = estimate / (times[0] - times[1])[:, None] - velocity
    loss = fused_loss(pred, segments, velocity, times, clip=None, reduction="none", backend=backend)
    torch.testing.assert_close(loss, zeta.square().mean(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["at_r", "no_interval"])
@pytest.mark.parametrize("order", [0, 1, 4])
def test_where_nothing_is_left_to_integrate_it_is_flow_matching(backend, kind, order):
    generator = torch.Generator().manual_seed(0)
    pred, base, velocity = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    unread = torch.full((order, 5, 7), torch.nan, dtype=torch.float64)
    times = knots([kind], order, 5, generator)
    leaf = pred.clone().requires_grad_()
    loss = fused_loss(leaf, unread, velocity, times, clip=None, backend=backend)
    loss.backward()
    plain = pred.clone().requires_grad_()
    expected = mse_loss(plain, velocity)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(leaf.grad, plain.grad)
    loss = fused_loss(pred, unread, velocity, times, base=base, clip=None, backend=backend)
    torch.testing.assert_close(loss, mse_loss(base, velocity))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_base_defaults_to_the_prediction(backend):
    pred, segment, velocity = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    times = knots(["usual"], 1, 4, torch.Generator().manual_seed(0))
    results = []
    for base in (None, pred.clone()):
        leaf = pred.clone().requires_grad_()
        fused_loss(leaf, [segment], velocity, times, base=base, backend=backend).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_losses_are_one_when_the_coefficients_are(backend):
    generator = torch.Generator().manual_seed(1)
    pred, segment, velocity = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    times = knots(["usual", "long_step"], 1, 4, generator)
    share = (times[1] - times[2]) / (times[0] - times[1])
    coeffs = torch.stack([-share, torch.full_like(share, -1)])
    combined = fused_residual_loss(
        pred, [segment, velocity], coeffs, pred_coeff=1 + share, clip=1.0, reduction="none", backend=backend
    )
    recursive = fused_loss(pred, [segment], velocity, times, reduction="none", backend=backend)
    torch.testing.assert_close(combined, recursive, rtol=1e-10, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS, ids=lambda m: f"{m.name}-{m.c}-{m.alpha}-{m.cosine}")
def test_the_gradient_of_flow_matching_is_the_true_one(backend, metric):
    if metric == Metric("pseudo_huber", c=0.0):
        metric = Metric("pseudo_huber", c=1e-3)
    if metric.name == "barron_reweighting" and metric.alpha != 2:
        pytest.skip("its weight is held without gradient")
    pred, velocity = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
    weight = torch.tensor([0.5, 2.0, 1.0])
    for reduction in ("mean", "sum", "none"):
        torch.autograd.gradcheck(
            lambda p, reduction=reduction: fused_loss(
                p, [], velocity, times, clip=None, metric=metric, weight=weight, reduction=reduction, backend=backend
            ),
            pred.clone().requires_grad_(),
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_residual_of_zero_gives_no_loss_and_no_gradient(backend):
    pred = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
    metrics = [Metric("l2"), Metric("pseudo_huber", c=0.0), Metric("pseudo_huber", c=1.0), Metric("barron", alpha=0.5)]
    for metric in metrics:
        loss = fused_loss(pred, [], pred.detach().clone(), times, metric=metric, adaptive=1.0, backend=backend)
        (gradient,) = torch.autograd.grad(loss, pred)
        assert loss.item() == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_normalised_residual_of_zero_stays_zero(backend):
    pred = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = pred.detach().clone()
    target[1] += 1
    coeffs = -torch.ones(1, 3)
    losses = fused_residual_loss(
        pred, [target], coeffs, pred_coeff=1.0, normalize=0.0, reduction="none", backend=backend
    )
    (gradient,) = torch.autograd.grad(losses.sum(), pred)
    torch.testing.assert_close(losses, torch.tensor([0, 1 / 9, 0]))
    assert (gradient[[0, 2]] == 0).all()
    assert (gradient[1] < 0).all()
