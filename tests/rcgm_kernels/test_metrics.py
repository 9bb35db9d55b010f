"""The metrics of the losses: cosine, Barron and its relatives, sums over elements."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss

BACKENDS = ("cpu", "reference")


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
