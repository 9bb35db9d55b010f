"""Nothing of the size of a term is allocated but what the caller gets: the gradient, the points, the new state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.memory import allocations
from rcgm_kernels import Metric, advance, ema_update_, fused_loss, fused_residual_loss, interpolate
from tests.support.cases import HALVES, laid_out

BATCH, SIZE = 4, 20_000


def large_allocations(run: Callable[[], object], bytes_of_a_term: int) -> int:
    """How many blocks of at least half a term torch allocates while ``run`` works, after a first call of it."""
    run()
    return sum(size >= bytes_of_a_term // 2 for size in allocations(run))


def tensors(count: int, dtype: torch.dtype, layout: str = "dense") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [laid_out(torch.randn(BATCH, SIZE, generator=generator).to(dtype), layout) for _ in range(count)]


TIMES = torch.tensor([[0.9], [0.8], [0.4], [0.1]]).expand(4, BATCH)


def test_the_count_sees_each_allocation():
    (x,) = tensors(1, torch.float32)
    assert large_allocations(lambda: x.sum(), x.nbytes) == 0
    assert large_allocations(lambda: x.clone(), x.nbytes) == 1
    assert large_allocations(lambda: (x + 1).mul(2), x.nbytes) == 2
    assert large_allocations(lambda: x.half(), x.nbytes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("layout", ["dense", "slice", "spaced", "expanded"])
@pytest.mark.parametrize("metric", [Metric(), Metric("pseudo_huber", cosine=1.0)], ids=["l2", "huber"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_with_its_backward_pass_allocates_the_gradient_alone(dtype, layout, metric, reduction):
    pred, *segments, velocity = tensors(4, dtype, layout)
    pred.requires_grad_()
    factor = torch.tensor(3.0)

    def run() -> None:
        pred.grad = None
        loss = fused_loss(pred, segments, velocity, TIMES, metric=metric, reduction=reduction, backend="cpu")
        (factor * loss).sum().backward()

    assert large_allocations(run, BATCH * SIZE * dtype.itemsize) == 1


def test_no_gradient_no_allocation():
    pred, term = tensors(2, torch.bfloat16)
    pred.requires_grad_()
    coeffs = torch.ones(1, BATCH)

    def run() -> None:
        with torch.no_grad():
            fused_residual_loss(pred, [term], coeffs, metric="pseudo_huber", adaptive=1.0, backend="cpu")

    assert large_allocations(run, pred.nbytes) == 0


def test_mixed_dtypes_are_converted_on_the_way():
    pred = tensors(1, torch.bfloat16)[0].requires_grad_()
    segments, velocity = tensors(2, torch.float16), tensors(1, torch.float32)[0]

    def run() -> None:
        pred.grad = None
        fused_loss(pred, segments, velocity, TIMES, backend="cpu").backward()

    assert large_allocations(run, pred.nbytes) == 1


def test_keeping_the_graph_costs_one_copy_of_the_gradient():
    pred, velocity = tensors(2, torch.float32)
    pred.requires_grad_()

    def run() -> None:
        pred.grad = None
        fused_loss(pred, [], velocity, TIMES[::3], backend="cpu").backward(retain_graph=True)

    assert large_allocations(run, pred.nbytes) == 2


def test_a_copy_is_made_only_of_samples_that_are_not_dense():
    pred, velocity = tensors(2, torch.float32)
    pred.requires_grad_()
    transposed = torch.randn(SIZE, BATCH).T

    def run() -> None:
        pred.grad = None
        fused_loss(pred, [transposed, velocity], velocity, TIMES, backend="cpu").backward()

    assert large_allocations(run, pred.nbytes) == 2


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_path_operations_allocate_their_result_alone(dtype):
    x, z = tensors(2, dtype)
    out = torch.empty(3 * BATCH, SIZE, dtype=dtype)[BATCH : 2 * BATCH]
    times = torch.rand(2, BATCH)
    assert large_allocations(lambda: interpolate(x, z, times, times, backend="cpu"), x.nbytes) == 1
    assert large_allocations(lambda: advance(x, z, times[0], times[1], backend="cpu"), x.nbytes) == 1
    assert large_allocations(lambda: advance(x, z, times[0], times[1], out=out, backend="cpu"), x.nbytes) == 0
    assert large_allocations(lambda: advance(x, z, times[0], times[1], out=x, backend="cpu"), x.nbytes) == 0


def test_the_moving_average_allocates_nothing():
    params, averages, copies = tensors(3, torch.bfloat16), tensors(3, torch.float32), tensors(3, torch.float16)
    assert large_allocations(lambda: ema_update_(averages, params, 0.9, copies, backend="cpu"), copies[0].nbytes) == 0
