"""The precision of losses and gradients under autocast, gradient scaling and in 16 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rcgm_kernels import Metric, fused_loss
from tests.support.cases import HALVES
from tests.support.predictions import BATCH, SIZE, gradient_of, prediction

pytestmark = pytest.mark.usefixtures("backend")


def test_autocast_leaves_it_in_its_own_precision(loss_of):
    network = nn.Linear(8, SIZE)
    inputs = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        output = network(inputs)
        inside = loss_of(output)
    assert output.dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert inside.item() == loss_of(output).item()
    inside.backward()
    assert network.weight.grad.dtype == torch.float32
    torch.testing.assert_close(inside.detach().double(), loss_of(output.detach().double()), rtol=1e-5, atol=0)


def test_gradient_scaling_saves_small_float16_gradients(backend):
    # 2 R / (D B) is 1e-8 here: float16 ends at 6e-8.
    size = 100_000
    pred = torch.full((2, size), 1e-3, dtype=torch.float16)
    pred += torch.rand(2, size, generator=torch.Generator().manual_seed(0)).half() * 1e-3
    leaf = pred.clone().requires_grad_()
    velocity, times = torch.zeros(2, size), torch.tensor([[0.9], [0.1]]).expand(2, 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(fused_loss(leaf, [], velocity, times, backend=backend)).backward()
    unscaled = leaf.grad.double() / 2**16
    expected = 2 * pred.double() / (2 * size)
    assert ((unscaled - expected).abs() <= expected * 2**-10).all()
    unaided = pred.clone().requires_grad_()
    fused_loss(unaided, [], velocity, times, backend=backend).backward()
    assert (unaided.grad == 0).all()


@pytest.mark.parametrize("clip", [1.0, 2000.0, None])
@pytest.mark.parametrize(
    "metric",
    [Metric(), Metric("pseudo_huber"), Metric(cosine=0.5), Metric(cosine=0.5, cosine_dim="sample")],
    ids=["l2", "huber", "channels", "sample"],
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_finite_float16_gradients_stay_finite_and_small_ones_stay(backend, clip, metric, reduction):
    # Weights of 1e5 beside 1e-6: each sample has a scale of its own.
    generator = torch.Generator().manual_seed(0)
    pred, velocity = 3 * torch.randn(2, 6, 4, 1024, generator=generator).half()
    weight, times = torch.tensor([1e5, 1e-6, 1.0, 1e5, 1e-6, 1e2]), torch.tensor([[0.9], [0.1]]).expand(2, 6)
    options = {"clip": clip, "metric": metric, "weight": weight, "reduction": reduction, "backend": backend}

    def gradient(dtype: torch.dtype, factor: float) -> Tensor:
        leaf = pred.to(dtype).requires_grad_()
        (factor * fused_loss(leaf, [], velocity.to(dtype), times, **options)).sum().backward()
        return leaf.grad.double()

    exact = gradient(torch.float64, 1.0)
    assert 1 < exact.abs().max() < 65504
    for factor in (1.0, 2.0**16):
        wanted = factor * exact
        actual = gradient(torch.float16, factor)
        assert torch.equal(actual.isfinite(), wanted.abs() < 65520)
        # half a unit where float16 is normal, and half of its smallest number below
        allowed = (2**-11 + 1e-5) * wanted.abs() + 2**-25 * 1.01
        assert ((actual - wanted).abs()[actual.isfinite()] <= allowed[actual.isfinite()]).all()


def test_one_samples_size_does_not_change_another(backend):
    generator = torch.Generator().manual_seed(0)
    pred, velocity = torch.randn(2, 3, 700, generator=generator).half()
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
    gradients = []
    for factor in (1.0, 1e3):
        leaf = pred * torch.tensor([1.0, factor, 1.0]).half()[:, None]
        leaf.requires_grad_()
        (2.0**12 * fused_loss(leaf, [], velocity, times, clip=None, backend=backend)).backward()
        gradients.append(leaf.grad[[0, 2]])
    assert torch.equal(*gradients)


def test_gradient_scaler_steps(loss_of):
    network = nn.Linear(8, SIZE)
    plain = nn.Linear(8, SIZE)
    plain.load_state_dict(network.state_dict())
    inputs = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    with torch.autocast("cpu", torch.float16):
        loss = loss_of(network(inputs))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2048
    loss_of(plain(inputs)).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    torch.testing.assert_close(network.weight, plain.weight, rtol=0, atol=1e-4)
    assert not torch.equal(network.weight, plain.weight)
    before = network.weight.detach().clone()
    optimizer.zero_grad()
    scaler.scale(loss_of(network(inputs)) * torch.inf).backward()
    scaler.step(optimizer)  # skipped
    scaler.update()
    assert scaler.get_scale() == 1024
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("dtype", HALVES)
def test_one_rounding_to_the_storage_dtype(loss_of, dtype):
    # The stored gradient of float16 is scaled; undoing that must not round once more.
    pred = prediction(dtype)
    loss_of(pred).backward()
    expected = gradient_of(loss_of, pred)
    wrong = pred.grad != expected.to(torch.float32).to(dtype)
    assert wrong.float().mean() < 1e-3  # float32 arithmetic may fall on the other side of a tie
