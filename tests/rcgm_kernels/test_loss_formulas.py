"""The losses are what the papers write down: math.md sections 2 and 3, straight from the page, with autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from rcgm_kernels.layout import batched
from tests.support.cases import METRICS, LossCall, every, knots, loss_cases

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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_has_no_direction(backend, dtype):
    # Row 0: the prediction is 0; row 1: its target is; the cosine term is then the worst it can be and has no gradient.
    pred = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype).requires_grad_()
    velocity = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 2)
    options = {"clip": None, "reduction": "none", "backend": backend}
    loss = fused_loss(pred, [], velocity, times, metric=Metric(cosine=0.5), **options)
    torch.testing.assert_close(loss, torch.full((2,), 12.5 + 0.5, dtype=dtype))
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    torch.testing.assert_close(gradient, pred.detach() - velocity)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_at_one_position(backend, dtype):
    # Two channels at three positions: the prediction is 0 at the first, its target at the second.
    pred = torch.tensor([[[0.0, 3.0, 3.0], [0.0, 4.0, 0.0]]], dtype=dtype).requires_grad_()
    velocity = torch.tensor([[[3.0, 0.0, 0.0], [4.0, 0.0, 2.0]]], dtype=dtype)
    times = torch.tensor([[0.9], [0.1]])
    loss = fused_loss(pred, [], velocity, times, clip=None, metric=Metric(cosine=0.6), backend=backend)
    torch.testing.assert_close(loss, torch.tensor((25 + 25 + 13) / 6 + 0.6, dtype=dtype))
    (gradient,) = torch.autograd.grad(loss, pred)
    expected = (pred.detach() - velocity) / 3
    expected[0, 1, 2] -= 0.2 / 3  # across the prediction (3, 0), by its length
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_positions_both_cosines_are_one(backend):
    pred, velocity = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
    losses = []
    for dim, shape in (("channels", (3, 20)), ("channels", (3, 20, 1, 1)), ("sample", (3, 4, 5))):
        metric = Metric(cosine=0.5, cosine_dim=dim)
        losses.append(fused_loss(pred.view(shape), [], velocity.view(shape), times, metric=metric, backend=backend))
    assert losses[0] == losses[1] == losses[2]
    pred, velocity = pred.view(3, 4, 5), velocity.view(3, 4, 5)
    assert fused_loss(pred, [], velocity, times, metric=Metric(cosine=0.5), backend=backend) != losses[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cosine_term_keeps_its_digits_near_agreement(backend):
    # 1 - cos of vectors 1e-3 apart is 5e-7: computed as a difference from 1, float32 would keep one digit of it.
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(2, 4096, generator=generator)
    velocity = pred + 1e-3 * torch.randn(2, 4096, generator=generator)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 2)

    def cosine_term(backend: str, dtype: torch.dtype) -> Tensor:
        losses = [
            fused_loss(pred.to(dtype), [], velocity.to(dtype), times, metric=metric, reduction="none", backend=backend)
            for metric in (Metric(cosine=1.0), Metric())
        ]
        return losses[0].double() - losses[1].double()

    expected = cosine_term("reference", torch.float64)
    torch.testing.assert_close(cosine_term(backend, torch.float32), expected, rtol=1e-3, atol=0)


def test_barron_is_continuous_in_its_shape_and_has_pseudo_huber_inside():
    pred, velocity = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 6)

    def losses(metric: Metric) -> Tensor:
        return fused_loss(pred, [], velocity, times, clip=None, metric=metric, reduction="none", backend="cpu")

    for alpha, near in ((2.0, 2 - 1e-7), (0.0, 1e-7), (0.0, -1e-7), (-math.inf, -1e7)):
        special, general = losses(Metric("barron", 0.8, alpha)), losses(Metric("barron", 0.8, near))
        torch.testing.assert_close(special, general, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses(Metric("barron", 0.8, 1.0)), losses(Metric("pseudo_huber", 0.8)) / 0.8)
    torch.testing.assert_close(losses(Metric("barron", 0.8, 2.0)), losses(Metric("l2")) / (2 * 0.8**2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sum_over_elements_by_hand(backend):
    pred = torch.tensor([[3.0, 4.0], [0.0, 2.0]], requires_grad=True)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 2)
    options = {"clip": None, "reduce": "sum", "reduction": "none", "backend": backend}

    def losses(**others) -> Tensor:
        return fused_loss(pred, [], torch.zeros(2, 2), times, **options, **others)

    assert losses().tolist() == [25, 4]
    torch.testing.assert_close(
        losses(metric=Metric("pseudo_huber", c=12**0.5)), torch.tensor([37.0, 16.0]).sqrt() - 12**0.5
    )
    assert losses(adaptive=AdaptiveWeight(1.0, 7.0))[0].item() == 25 / 32
    assert losses(adaptive=AdaptiveWeight(0.5, 11.0, of="loss"))[0].item() == pytest.approx(25 / 6)
    (gradient,) = torch.autograd.grad(losses().sum(), pred)
    assert gradient.tolist() == [[6, 8], [0, 4]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_reweighting_has_the_gradient_of_barron_by_its_width(backend):
    pred, velocity = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 6)
    pred.requires_grad_()
    for alpha in (2.0, 1.0, 0.0, -2.0, -math.inf):
        gradients = [
            torch.autograd.grad(fused_loss(pred, [], velocity, times, metric=metric, backend=backend), pred)[0]
            for metric in (Metric("barron_reweighting", 0.8, alpha), Metric("barron", 0.8, alpha))
        ]
        torch.testing.assert_close(gradients[0], 1.6 * gradients[1], rtol=1e-7, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_and_numbers_stand_for_options(backend):
    pred, velocity = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)

    def loss(**options) -> float:
        return fused_loss(pred, [], velocity, times, backend=backend, **options).item()

    assert loss(metric="pseudo_huber") == loss(metric=Metric("pseudo_huber", c=1.0)) != loss()
    assert loss(adaptive=0.5) == loss(adaptive=AdaptiveWeight(0.5, 1e-3)) != loss()
    assert loss(adaptive=0) == loss()
    assert loss(clip=math.inf) == loss(clip=None) != loss(clip=0.1)
