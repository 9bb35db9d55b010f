import re

import pytest
import torch

from rcgm.models import MLP


def drawn(dtype=torch.float32, **arguments):
    """A small network away from its initial zeros."""
    network = MLP(**{"dim": 3, "width": 16, "depth": 3, "num_classes": 4, "frequency_size": 8, **arguments})
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.to(dtype)


def inputs(dtype=torch.float32, batch=5, dim=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, dim, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    r = t * torch.rand(batch, generator=generator, dtype=torch.float64)
    times = torch.float64 if dtype == torch.float64 else torch.float32
    return x, t.to(times), r.to(times), torch.arange(batch) % 5


def test_against_the_definition():
    network = drawn(torch.float64)
    x, t, r, cond = inputs(torch.float64)

    def silu(value):
        return value * torch.sigmoid(value)

    c = network.t_embedder(t) + network.interval_embedder(t - r) + network.y_embedder.embedding_table.weight[cond]
    h = x
    for index, layer in enumerate(network.hidden):
        rows = slice(16 * index, 16 * index + 16)
        shift = silu(c) @ network.modulation.weight[rows].T + network.modulation.bias[rows]
        h = silu(h @ layer.weight.T + layer.bias + shift)
    expected = h @ network.output.weight.T + network.output.bias
    torch.testing.assert_close(network(x, t, r, cond), expected)


@pytest.mark.parametrize(("dim", "depth", "batch"), [(1, 1, 1), (2, 4, 7), (13, 2, 0)])
def test_shapes(dim, depth, batch):
    point = inputs(batch=batch, dim=dim)
    assert drawn(dim=dim, depth=depth)(*point).shape == (batch, dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_is_exactly_zero_at_the_start(dtype):
    network = MLP(dim=3, num_classes=4).to(dtype)
    assert network(*inputs(dtype)).abs().max() == 0


def test_time_interval_and_class_all_matter():
    network = drawn()
    x, t, r, cond = inputs()
    result = network(x, t, r, cond)
    for other in ((x, t, r * 0.5, cond), (x, t + 0.1, r + 0.1, cond), (x, t, r, (cond + 1) % 5)):
        assert (network(*other) - result).abs().amax(1).min() > 1e-3


def test_unconditional():
    network = drawn(num_classes=None)
    x, t, r, _ = inputs()
    assert network.num_classes is None
    torch.testing.assert_close(network(x, t, r), network(x, t, r, None), rtol=0, atol=0)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(weights, autocast):
    network = drawn(weights)
    point = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = network(*point)
    assert result.dtype == (torch.bfloat16 if autocast else weights)
    torch.testing.assert_close(result.float(), network.float()(*point), rtol=0.05, atol=0.05)


def test_float64():
    network, point = drawn(torch.float64), inputs(torch.float64)
    result = network(*point)
    assert result.dtype == torch.float64
    assert 1e-10 < (network.float()(*point) - result).abs().max() < 1e-4


def test_gradient_reaches_every_parameter():
    network = drawn()
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_as_one_graph(autocast):
    torch.compiler.reset()
    network, point = drawn(), inputs()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got, expected = compiled(*point), network(*point)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=2e-2 if autocast else 1e-5, atol=2e-2 if autocast else 1e-5)


def test_initial_weights_depend_on_the_generator_alone():
    def weights(seed):
        network = MLP(dim=2, num_classes=3)
        network.reset_parameters(torch.Generator().manual_seed(seed))
        return network.state_dict()

    built = MLP(dim=2, num_classes=3, generator=torch.Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(weights(0)[name], built[name]) for name in built)
    assert not torch.equal(weights(1)["hidden.1.weight"], built["hidden.1.weight"])
    assert built["hidden.1.weight"].abs().max() <= 1 / 16
    assert built["hidden.1.weight"].abs().max() > 0.99 / 16
    assert built["y_embedder.embedding_table.weight"].std().item() == pytest.approx(0.02, rel=0.1)


def test_learns_the_average_velocity_of_a_gaussian():
    # The closed form of data N(1, 0.5^2) under the linear transport: any-step prediction needs x, t and r at once.
    generator = torch.Generator().manual_seed(0)
    network = MLP(dim=1, width=64, depth=3, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(300):
        t = 0.1 + 0.9 * torch.rand(256, generator=generator)
        r = t * (0.9 * torch.rand(256, generator=generator))
        deviation_t, deviation_r = (((1 - s) ** 2 * 0.25 + s**2).sqrt() for s in (t, r))
        x_t = 1 - t + deviation_t * torch.randn(256, generator=generator)
        x_r = 1 - r + deviation_r / deviation_t * (x_t - (1 - t))
        velocity = ((x_t - x_r) / (t - r))[:, None]
        loss = (network(x_t[:, None], t, r) - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01 * velocity.var().item()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        ({"dim": "2"}, TypeError, "dim must be an int, got '2' of type str"),
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
        ({"num_classes": 1.5}, TypeError, "num_classes must be an int, got 1.5 of type float"),
        ({"time_scale": 0}, ValueError, "time_scale must be positive and finite, got 0"),
        ({"frequency_size": 3}, ValueError, "frequency_size must be even"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MLP(**{"dim": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(2, 2)}, ValueError, "x must have shape [B, 3], got [2, 2]"),
        ({"x": torch.zeros(2, 3, 1)}, ValueError, "x must have shape [B, 3], got [2, 3, 1]"),
        ({"t": torch.zeros(2).half()}, TypeError, "t must be float32 or float64, got torch.float16"),
        ({"r": torch.zeros(1)}, ValueError, "r must have shape [2], one time for each sample of x, got [1]"),
        ({"cond": torch.zeros(2, dtype=torch.int64)}, ValueError, "cond must be None"),
    ],
)
def test_forward_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MLP(dim=3)(**{"x": torch.zeros(2, 3), "t": torch.zeros(2), "r": torch.zeros(2), **arguments})
