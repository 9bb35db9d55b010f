"""The losses in training loops: accumulation, second derivatives, transforms, graphs that are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from rcgm_kernels import Metric, fused_loss, fused_regression, fused_residual_loss
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import HALVES
from tests.support.closeness import assert_gradient_close
from tests.support.predictions import BATCH, SIZE, gradient_of, prediction

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("factor", [3.0, -0.375, 0.0, 1e-3])
def test_the_upstream_gradient_multiplies(loss_of, dtype, reduction, factor):
    pred = prediction(dtype)
    (factor * loss_of(pred, reduction=reduction)).backward()
    assert pred.grad.dtype == dtype
    expected = factor * gradient_of(loss_of, pred, reduction=reduction)
    # Rounded once in the forward pass and once here: half a unit and, at the other end of a binade, a whole one.
    assert_gradient_close(pred.grad, expected, share=2 * torch.finfo(dtype).eps + 1e-5)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("metric", [Metric(), Metric("pseudo_huber", cosine=0.5)], ids=["l2", "huber"])
def test_the_upstream_gradient_multiplies_each_sample_on_its_own(loss_of, dtype, metric):
    pred = prediction(dtype)
    upstream = torch.tensor([1.0, -2.0, 0.0, 0.1, 7.0])
    losses = loss_of(pred, reduction="none", metric=metric)
    losses.backward(upstream.to(losses.dtype))
    expected = upstream.double()[:, None] * gradient_of(loss_of, pred, reduction="none", metric=metric)
    assert_gradient_close(pred.grad, expected, share=2 * torch.finfo(dtype).eps + 1e-5)


def test_an_expanded_upstream_gradient(loss_of):
    pred, again = prediction(), prediction()
    losses = loss_of(pred, reduction="none")
    losses.backward(torch.tensor(2.5).expand(BATCH))
    loss_of(again, reduction="none").backward(torch.full((BATCH,), 2.5))
    assert torch.equal(pred.grad, again.grad)


def test_gradients_accumulate_over_micro_batches(loss_of):
    pred = prediction()
    loss_of(pred).backward()
    once = pred.grad.clone()
    loss_of(pred).backward()
    torch.testing.assert_close(pred.grad, 2 * once)
    loss_of(pred, reduction="sum").backward()
    torch.testing.assert_close(pred.grad, (2 + BATCH) * once)


def test_one_prediction_in_two_losses(loss_of):
    pred = prediction()
    total = loss_of(pred) + 2 * loss_of(pred, metric="pseudo_huber")
    total.backward()
    expected = gradient_of(loss_of, pred) + 2 * gradient_of(loss_of, pred, metric="pseudo_huber")
    assert_gradient_close(pred.grad, expected)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_a_kept_graph_gives_the_same_gradient_again(loss_of, dtype):
    pred = prediction(dtype)
    loss = loss_of(pred)
    gradients = []
    for factor, keep in ((4.0, True), (4.0, True), (1.0, True), (4.0, False)):
        pred.grad = None
        (factor * loss).backward(retain_graph=keep)
        gradients.append(pred.grad)
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], 4 * gradients[2])  # and none was written into by a later pass
    assert torch.equal(gradients[0], gradients[3])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_through_a_network(loss_of):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(BATCH, 8, generator=generator)
    network = nn.Linear(8, SIZE)
    loss_of(network(inputs)).backward()
    output = network(inputs).detach()
    expected = gradient_of(loss_of, output).float().T @ inputs
    torch.testing.assert_close(network.weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_prediction_that_is_not_contiguous(loss_of):
    leaf = torch.randn(SIZE, BATCH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss_of(leaf.T).backward()
    assert_gradient_close(leaf.grad.T, gradient_of(loss_of, leaf.T))
    batched = torch.randn(3 * BATCH, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss_of(batched[BATCH : 2 * BATCH]).backward()
    assert (batched.grad[:BATCH] == 0).all()
    assert (batched.grad[2 * BATCH :] == 0).all()
    assert_gradient_close(batched.grad[BATCH : 2 * BATCH], gradient_of(loss_of, batched[BATCH : 2 * BATCH]))


def test_targets_get_no_gradient(backend):
    def leaf(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).add(0.1).requires_grad_()

    pred, segment, velocity, base, terms = leaf(2, 3), leaf(2, 3), leaf(2, 3), leaf(2, 3), leaf(2, 2, 3)
    times = torch.tensor([[0.9, 0.9], [0.8, 0.8], [0.1, 0.1]])
    loss = fused_loss(pred, [segment], velocity, times, base=base, backend=backend)
    loss = loss + fused_residual_loss(pred, terms, torch.ones(2, 2), backend=backend)
    loss.backward()
    assert pred.grad is not None
    for other in (segment, velocity, base, terms):
        assert other.grad is None


def test_numbers_that_require_a_gradient_are_used_where_none_is_recorded(backend):
    weight = torch.tensor([0.5, 2.0], requires_grad=True)
    pred, velocity, times = torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([[0.9], [0.1]]).expand(2, 2)
    with torch.no_grad():
        assert fused_loss(pred, [], velocity, times, weight=weight, backend=backend).item() == 1.25


def test_only_what_needs_a_gradient_has_one(loss_of):
    pred = prediction()
    with torch.no_grad():
        assert not loss_of(pred).requires_grad
    with torch.inference_mode():
        assert not loss_of(pred).requires_grad
    assert not loss_of(pred.detach()).requires_grad
    assert loss_of(pred).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused_in_every_way(loss_of, reduction):
    network = nn.Linear(3, SIZE)
    inputs = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(2))
    pred = network(inputs)
    loss = loss_of(pred, reduction=reduction).sum()
    gradient, of_pred = torch.autograd.grad(loss, [network.weight, pred], create_graph=True)
    torch.testing.assert_close(of_pred.detach().double(), gradient_of(loss_of, pred, reduction=reduction))
    twice = "cannot be differentiated twice"
    with pytest.raises(RuntimeError, match=twice):
        torch.autograd.grad(gradient.square().sum(), network.weight, retain_graph=True)
    with pytest.raises(RuntimeError, match=twice):
        torch.autograd.grad(gradient.square().sum(), network.bias, retain_graph=True)
    with pytest.raises(RuntimeError, match=twice):
        (loss + gradient.norm()).backward()
    with pytest.raises(RuntimeError, match=twice):
        torch.autograd.functional.hessian(lambda p: loss_of(p, reduction=reduction).sum(), prediction().detach())
    with pytest.raises(RuntimeError, match=twice):
        torch.func.jacrev(torch.func.grad(lambda p: loss_of(p, reduction=reduction).sum()))(prediction().detach())


def test_creating_a_graph_of_the_gradient_costs_nothing_but_memory(loss_of):
    pred = prediction()
    (gradient,) = torch.autograd.grad(3 * loss_of(pred), pred, create_graph=True)
    assert_gradient_close(gradient.detach(), 3 * gradient_of(loss_of, pred))
    other = (pred * 2).sum() + (gradient * 0).detach().sum()
    other.backward()
    assert (pred.grad == 2).all()


def test_forward_mode_is_refused(loss_of):
    pred, tangent = prediction().detach(), torch.ones(BATCH, SIZE)
    forward_mode = "no forward-mode derivative.*Use reverse mode"
    with pytest.raises(RuntimeError, match=forward_mode):
        torch.func.jvp(loss_of, (pred,), (tangent,))
    with pytest.raises(RuntimeError, match=forward_mode):
        torch.func.hessian(loss_of)(pred)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(pred, tangent)
        with pytest.raises(RuntimeError, match=forward_mode):
            loss_of(dual)
        with torch.no_grad(), pytest.raises(RuntimeError, match=forward_mode):
            loss_of(dual)
        with pytest.raises(ValueError, match="weight must not be a dual number"):
            loss_of(pred, weight=forward_ad.make_dual(torch.ones(BATCH), torch.ones(BATCH)))
        assert forward_ad.unpack_dual(loss_of(pred)).tangent is None


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_transforms_of_losses(loss_of, reduction, dtype):
    preds = torch.stack([prediction(dtype, seed).detach() for seed in (1, 2, 3)])
    weights = torch.rand(3, BATCH, generator=torch.Generator().manual_seed(3))

    def loss(pred: Tensor, weight: Tensor) -> Tensor:
        return loss_of(pred, weight=weight, reduction=reduction, metric="pseudo_huber")

    def total(pred: Tensor, weight: Tensor) -> Tensor:
        return 3 * loss(pred, weight).sum()

    losses, gradients = [], []
    for pred, weight in zip(preds, weights, strict=True):
        leaf = pred.clone().requires_grad_()
        losses.append(loss(leaf, weight))
        (3 * losses[-1].sum()).backward()
        gradients.append(leaf.grad)
    losses, gradients = torch.stack(losses).detach(), torch.stack(gradients)
    assert torch.equal(torch.func.vmap(loss)(preds, weights), losses)
    assert torch.equal(torch.func.grad(total)(preds[0], weights[0]), gradients[0])
    assert torch.equal(torch.func.vmap(torch.func.grad(total))(preds, weights), gradients)
    together = torch.func.grad(lambda preds: torch.func.vmap(total)(preds, weights).sum())(preds)
    assert torch.equal(together, gradients)
    value, pull = torch.func.vjp(lambda pred: 3 * loss(pred, weights[0]), preds[0])
    assert torch.equal(value, 3 * losses[0])
    assert torch.equal(pull(torch.ones_like(value))[0], gradients[0])
    leaf = preds.clone().requires_grad_()
    torch.func.vmap(total)(leaf, weights).sum().backward()
    assert torch.equal(leaf.grad, gradients)


def test_the_operation_itself_says_how_transforms_are_to_be_had():
    numbers = torch.ones(1, 2)
    gradient = torch.func.grad(lambda x: torch.ops.rcgm_kernels.interpolate(x, x, numbers, numbers, x.dtype, "").sum())
    with pytest.raises(RuntimeError, match=r"rcgm_kernels\.interpolate cannot be differentiated inside of torch\.func"):
        gradient(torch.ones(2, 3))


@pytest.mark.parametrize("order", [0, 2])
def test_numbers_may_be_given_in_any_form(backend, order):
    generator = torch.Generator().manual_seed(0)
    pred, velocity, *terms = torch.randn(2 + order, BATCH, 3, 4, generator=generator).unbind(0)
    a, b = torch.rand(2, BATCH, generator=generator).bfloat16()
    ones = torch.ones(BATCH)

    def same(expected: Tensor, *others: Tensor) -> None:
        assert all(torch.equal(other, expected) for other in others)

    times = torch.stack([0.75 * ones, a.float() / 2, b.float() / 8][: order + 1] + [0 * ones])  # noqa: RUF005
    loss = lambda times, weight: fused_loss(pred, terms, velocity, times, weight=weight, backend=backend)  # noqa: E731
    given = [0.75, (a / 2)[:, None, None], b.half() / 8][: order + 1] + [torch.tensor(0.0)]  # noqa: RUF005
    same(loss(times, 0.5 * ones), loss(given, 0.5), loss(times[..., None], torch.tensor(0.5, dtype=torch.float16)))

    def residual(coeffs, pred_coeff, scale, weight) -> Tensor:
        return fused_residual_loss(
            pred, [velocity, velocity.square()], coeffs, pred_coeff=pred_coeff, scale=scale, weight=weight, clip=1.0,
            backend=backend,
        )  # fmt: skip

    same(
        residual(torch.stack([-ones, a.float()]), 0.5 * ones, b.float(), 3 * ones),
        residual([-1.0, a], 0.5, b[:, None, None], 3),
        residual((-1, a[:, None].double()), torch.tensor(0.5), b.double(), torch.tensor(3.0).bfloat16()),
    )
    tenth = torch.full((BATCH,), 0.1, dtype=torch.float64)
    wide = (pred.double(), [velocity.double()])
    same(fused_residual_loss(*wide, tenth[None], scale=tenth, pred_coeff=tenth, backend=backend),
         fused_residual_loss(*wide, [0.1], scale=0.1, pred_coeff=0.1, backend=backend))  # fmt: skip
    same(residual([0, 0], 1.0, None, None), fused_residual_loss(pred, [], [], clip=1.0, backend=backend))


def test_a_plain_regression(backend):
    pred, target = torch.randn(2, BATCH, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    leaf = pred.clone().requires_grad_()
    fused_regression(leaf, target, backend=backend).backward()
    torch.testing.assert_close(leaf.grad, 2 * (pred - target) / pred.numel())
    options = {"clip": 0.5, "scale": 2.0, "metric": "pseudo_huber", "adaptive": 0.5, "weight": 3.0, "reduction": "none"}
    minus = torch.full((1, BATCH), -1.0)
    expected = fused_residual_loss(pred, [target], minus, **options, backend=backend)
    assert torch.equal(fused_regression(pred, target, **options, backend=backend), expected)
    with pytest.raises(ValueError, match=r"target must have the shape \[5, 7\], got \[7\]"):
        fused_regression(pred, target[0], backend=backend)
