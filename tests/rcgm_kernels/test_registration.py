"""The operations are torch's own as far as torch can tell: schemas, fake tensors, ``torch.compile``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from rcgm_kernels import (
    AdaptiveWeight,
    Metric,
    advance,
    ema_update_,
    fused_loss,
    fused_regression,
    fused_residual_loss,
    interpolate,
)
from rcgm_kernels.options import LossOptions

pytestmark = pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")

OPS = torch.ops.rcgm_kernels
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
BACKENDS = ("cpu", "reference")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def residual_loss_arguments(dtype: torch.dtype, reduction: str, backend: str, grad: bool = True) -> tuple:
    pred = random(3, 4, 5, dtype=dtype).requires_grad_(grad)
    terms, coeffs = list(random(2, 3, 4, 5, dtype=dtype, seed=1)), random(2, 3, seed=2)
    # With weights that make the loss positive opcheck passes 1 to the backward pass, which so leaves the second output
    # alone. (No public function hands that out; the backward pass may write into it.)
    scalars = coeffs, random(3, seed=3), random(3, seed=4), random(3, seed=5).abs()
    options = LossOptions(
        times=False, pred_in_residual=True, clip=1.0, metric=Metric("pseudo_huber", 0.1, cosine=0.5), normalize=None,
        adaptive=AdaptiveWeight(), reduce="sum", reduction=reduction, with_gradient=grad,
    )  # fmt: skip
    return pred, terms, *scalars, None, *options.flat(), backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "reduction", "grad"),
    [
        (torch.float32, "mean", True),
        (torch.bfloat16, "none", True),
        (torch.float16, "sum", False),
        (torch.float64, "mean", False),
    ],
)
def test_residual_loss_is_well_registered(dtype, reduction, grad, backend):
    torch.library.opcheck(OPS.residual_loss.default, residual_loss_arguments(dtype, reduction, backend, grad))


@pytest.mark.parametrize("backend", BACKENDS)
def test_residual_loss_of_knots_is_well_registered(backend):
    pred, velocity = random(3, 4).requires_grad_(), random(3, 4, seed=1)
    times = torch.tensor([[0.9], [0.1]]).expand(2, 3)
    options = LossOptions(
        times=True, pred_in_residual=True, clip=1.0, metric=Metric(), normalize=None, adaptive=None,
        reduce="mean", reduction="mean", with_gradient=True,
    )  # fmt: skip
    arguments = (pred, [velocity], times, None, None, None, None, *options.flat(), backend)
    torch.library.opcheck(OPS.residual_loss.default, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_in_place_operations_are_well_registered(backend):
    gradient, upstream = random(3, 4, dtype=torch.float16), random(3, seed=1)
    torch.library.opcheck(OPS.scale_gradient_.default, (gradient, upstream, torch.tensor([1.0, 0.5, 4.0]), backend))
    x, velocity, t, r = random(3, 4), random(3, 4, seed=1), random(3, seed=2), random(3, seed=3)
    torch.library.opcheck(OPS.advance_.default, (torch.zeros(3, 4, dtype=torch.bfloat16), x, velocity, t, r, backend))
    averages, params, copies = [random(4), random(2, 3)], [random(4, seed=1), random(2, 3, seed=1)], [torch.zeros(4)]
    torch.library.opcheck(OPS.ema_update_.default, (averages, params, 0.5, [*copies, torch.zeros(2, 3)], backend))
    torch.library.opcheck(OPS.ema_update_.default, (averages, params, 0.5, [], backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_interpolate_is_well_registered(backend):
    x, z = random(3, 4, 5).requires_grad_(), random(3, 4, 5, dtype=torch.bfloat16, seed=1).requires_grad_()
    alpha, gamma = random(2, 3, seed=2), random(2, 3, seed=3)
    torch.library.opcheck(OPS.interpolate.default, (x, z, alpha, gamma, torch.float16, backend))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shapes_and_dtypes_are_known_without_data(dtype, reduction):
    pred, segment, velocity = (random(3, 4, 5, dtype=dtype, seed=seed) for seed in range(3))
    times = torch.tensor([[0.9], [0.8], [0.1]]).expand(3, 3)

    def results(device: str) -> list[Tensor]:
        moved = [tensor.to(device) for tensor in (segment, velocity, times)]
        leaf = pred.to(device, copy=True).requires_grad_()
        loss = fused_loss(leaf, [moved[0]], *moved[1:], reduction=reduction)
        loss.sum().backward()
        points = interpolate(leaf, moved[1], moved[2], moved[2], dtype=torch.bfloat16)
        return [loss, leaf.grad, points, advance(leaf, moved[1], moved[2][0], moved[2][1])]

    for real, fake in zip(results("cpu"), results("meta"), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
        assert fake.device.type == "meta"


@pytest.fixture
def compiling() -> Iterator[None]:
    """Nothing is taken from, or left in, the caches of other runs."""
    torch._dynamo.reset()
    with torch.compiler.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


def training_step(network: nn.Module, inputs: Tensor, segment: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
    options = {"metric": Metric("pseudo_huber", c=0.1), "adaptive": 0.5}
    return fused_loss(network(inputs), [segment], velocity, times, **options)


def training_data(batch: int, size: int) -> tuple[Tensor, ...]:
    times = torch.tensor([[0.9], [0.8], [0.1]]).expand(3, batch).contiguous()
    return random(batch, 6), random(batch, size, seed=1), random(batch, size, seed=2), times


@pytest.mark.usefixtures("compiling")
def test_a_compiled_training_step_is_one_graph():
    torch.manual_seed(0)
    network = nn.Linear(6, 10)
    data = training_data(4, 10)
    expected = training_step(network, *data)
    expected_gradients = torch.autograd.grad(expected, network.parameters())
    loss = torch.compile(training_step, fullgraph=True)(network, *data)
    gradients = torch.autograd.grad(3 * loss, network.parameters())
    torch.testing.assert_close(loss, expected)
    for gradient, once in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, 3 * once)


@pytest.mark.usefixtures("compiling")
def test_compiled_path_and_average_are_one_graph():
    def step(x: Tensor, z: Tensor, t: Tensor, average: Tensor, copy: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        point, velocity = interpolate(x, z, torch.stack([t, one]), torch.stack([1 - t, -one]))
        ema_update_([average], [velocity], 0.75, [copy])
        return advance(point, velocity, t, t / 2), average * 2

    def arguments() -> tuple[Tensor, ...]:
        return random(3, 5), random(3, 5, seed=1), torch.tensor([0.25, 0.5, 1.0]), torch.ones(3, 5), torch.zeros(3, 5)

    plain, compiled = arguments(), arguments()
    expected = step(*plain)
    results = torch.compile(step, fullgraph=True)(*compiled)
    for actual, wanted in zip([*results, *compiled], [*expected, *plain], strict=True):
        torch.testing.assert_close(actual, wanted)
    assert not torch.equal(compiled[3], torch.ones(3, 5))


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_graph_serves_all_shapes(dtype):
    # The scale that float16 gradients are stored with depends on the shape; the graph must not.
    counter, graphs = CompileCounterWithBackend("aot_eager"), []

    def run(pred: Tensor, terms: Tensor, coeffs: Tensor) -> Tensor:
        return fused_residual_loss(pred * 2, terms, coeffs, clip=1.0)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for batch, size in ((4, 10), (6, 21), (9, 33)):
        terms, coeffs = random(2, batch, size, dtype=dtype, seed=1), random(2, batch, seed=2)
        results = []
        for function in (run, compiled):
            pred = random(batch, size, dtype=dtype).requires_grad_()
            loss = function(pred, terms, coeffs)
            loss.backward()
            results.append((loss.detach(), pred.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1]


@pytest.mark.usefixtures("compiling")
def test_a_compiled_loss_keeps_its_graph_when_asked_to():
    pred = random(3, 4).requires_grad_()
    velocity, times = random(3, 4, seed=1), torch.tensor([[0.9], [0.1]]).expand(2, 3)
    compiled = torch.compile(lambda p: fused_loss(p, [], velocity, times), fullgraph=True, backend="aot_eager")
    loss = compiled(pred)
    (first,) = torch.autograd.grad(5 * loss, pred, retain_graph=True)
    (second,) = torch.autograd.grad(loss, pred)
    torch.testing.assert_close(first, 5 * second)


@pytest.mark.usefixtures("compiling")
def test_a_compiled_loss_under_autocast():
    torch.manual_seed(0)
    network = nn.Linear(6, 10)
    data = training_data(4, 10)

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return training_step(network, *data)

    expected = torch.autograd.grad(run(), network.weight)
    actual = torch.autograd.grad(torch.compile(run, fullgraph=True, backend="aot_eager")(), network.weight)
    torch.testing.assert_close(actual, expected)


@pytest.mark.usefixtures("compiling")
def test_numbers_and_lists_are_compiled_as_well():
    def step(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        point, velocity = interpolate(x, z, [t, 1.0], [1 - t, -1.0])
        loss = fused_loss(point * 2, [velocity], velocity, [t, t - 0.01, 0.0], weight=0.5)
        loss = loss + fused_residual_loss(point * 3, [velocity], [t[:, None]], pred_coeff=0.5, scale=2.0)
        return loss + fused_regression(advance(point, velocity, t, 0.0) * t[0], z)

    x, z, t = random(3, 5).requires_grad_(), random(3, 5, seed=1), torch.tensor([0.25, 0.5, 1.0])
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        loss = function(x, z, t)
        results.append((loss, *torch.autograd.grad(loss, x)))
    torch.testing.assert_close(*results)
