import copy

import pytest
import torch

from rcgm.models import DiT
from tests.support.small_dit import SMALL, dit_by_definition, drawn, inputs


def test_against_the_definition():
    network = drawn(torch.float64, time_scale=7.0)
    point = inputs(torch.float64)
    torch.testing.assert_close(network(*point), dit_by_definition(network, *point), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("input_size", "channels", "patch_size", "batch"),
    [(1, 1, 1, 1), (8, 1, 1, 2), ((2, 10), 5, 2, 1), ((9, 3), 2, 3, 4), ([6, 4], 1, 2, 0)],
)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_shapes(input_size, channels, patch_size, batch, qk_norm):
    network = drawn(input_size=input_size, in_channels=channels, patch_size=patch_size, qk_norm=qk_norm)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    point = inputs(batch=batch, shape=(channels, height, width))
    assert network(*point).shape == point[0].shape
    assert network(*point).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_output_is_exactly_zero_at_the_start(dtype, autocast):
    network = DiT(**SMALL, qk_norm=True).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = network(*inputs(dtype))
    assert result.abs().max() == 0


def test_blocks_are_identities_at_the_start():
    network = DiT(**SMALL)
    tokens, c = torch.randn(2, 6, 16), torch.randn(2, 16)
    for block in network.blocks:
        torch.testing.assert_close(block(tokens, c), tokens, rtol=0, atol=0)


def test_initial_weights():
    network = DiT(**{**SMALL, "hidden_size": 128, "frequency_size": 256}, generator=torch.Generator().manual_seed(0))
    for embedder in (network.t_embedder, network.interval_embedder):
        for layer in (embedder.mlp[0], embedder.mlp[2]):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.y_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.15)
    for block in network.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert 0.99 * bound < layer.weight.abs().max().item() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
            assert layer.bias.abs().max() == 0


def test_generator_decides_the_weights():
    def states(seed):
        return DiT(**SMALL, generator=torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = states(0), states(0), states(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_forward_never_reads_values_on_the_host():
    with torch.device("meta"):
        network = DiT(**SMALL)
        point = (torch.empty(2, 3, 4, 6), torch.empty(2), torch.empty(2), torch.empty(2, dtype=torch.int64))
        assert network(*point).shape == (2, 3, 4, 6)


def test_time_and_interval_are_embedded_apart():
    network = drawn()
    x, t, r, cond = inputs()
    result = network(x, t, r, cond)
    assert (network(x, t, r * 0.5, cond) - result).abs().amax((1, 2, 3)).min() > 1e-3
    # The interval stays; only the time moves.
    assert (network(x, t + 0.1, r + 0.1, cond) - result).abs().amax((1, 2, 3)).min() > 1e-3
    silenced = copy.deepcopy(network)
    torch.nn.init.zeros_(silenced.interval_embedder.mlp[2].weight)
    torch.testing.assert_close(silenced(x, t, r, cond), silenced(x, t, r * 0.5, cond), rtol=0, atol=0)
    silenced = copy.deepcopy(network)
    torch.nn.init.zeros_(silenced.t_embedder.mlp[2].weight)
    moved = silenced(x, t + 0.125, r + 0.125, cond)
    torch.testing.assert_close(silenced(x, t, r, cond), moved, rtol=1e-4, atol=1e-4)


def test_time_scale_multiplies_both_times():
    slow, fast = drawn(torch.float64, time_scale=1.0), drawn(torch.float64, time_scale=8)
    x, t, r, cond = inputs(torch.float64)
    torch.testing.assert_close(fast(x, t / 8, r / 8, cond), slow(x, t, r, cond))
    assert DiT(**SMALL).t_embedder.scale == DiT(**SMALL).interval_embedder.scale == 10.0


def test_null_class_is_one_more_class():
    network = drawn()
    assert network.y_embedder.embedding_table.weight.shape[0] == 6
    x, t, r, _ = inputs(batch=1)
    results = [network(x, t, r, torch.tensor([label])) for label in range(6)]
    distances = [(a - b).abs().max().item() for i, a in enumerate(results) for b in results[:i]]
    assert min(distances) > 1e-3
    with pytest.raises(IndexError):
        network(x, t, r, torch.tensor([6]))


def test_unconditional():
    network = drawn(num_classes=None)
    x, t, r, _ = inputs()
    assert network.num_classes is None
    assert not any("y_embedder" in name for name, _ in network.named_parameters())
    torch.testing.assert_close(network(x, t, r), network(x, t, r, None), rtol=0, atol=0)


def test_samples_of_a_batch_do_not_see_each_other():
    network = drawn(torch.float64)
    point = inputs(torch.float64)
    alone = [network(*(part[i : i + 1] for part in point)) for i in range(3)]
    torch.testing.assert_close(network(*point), torch.cat(alone))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("weights", "autocast"), [("float32", True), ("half", True), ("half", False)])
def test_half_precision(half, weights, autocast):
    network = drawn(torch.float32 if weights == "float32" else half, std=0.2, qk_norm=True)
    x, t, r, cond = inputs()
    conditions, tokens = [], []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, arguments: tokens.append(arguments[0]))
    network.blocks[1].register_forward_pre_hook(lambda _, arguments: conditions.append(arguments[1]))
    with torch.autocast("cpu", dtype=half, enabled=autocast):
        result = network(x, t, r, cond)
    assert result.dtype == half
    assert [token.dtype for token in tokens] == [torch.float32, torch.float32]
    expected = network.float()(x, t, r, cond)
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(conditions[0], conditions[1], rtol=0, atol=0)


def test_float64_computes_in_float64():
    network = drawn(torch.float64)
    x, t, r, cond = inputs(torch.float64)
    result = network(x, t, r, cond)
    assert result.dtype == torch.float64
    error = (copy.deepcopy(network).float()(x, t, r, cond) - result).abs().max().item()
    assert 1e-9 < error < 1e-4
    # Far below float32's resolution of the time, and still seen.
    step = (network(x, t + 1e-12, r, cond) - result).abs().max().item()
    assert 1e-14 < step < 1e-9


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_compiles_as_one_graph(autocast, qk_norm):
    torch.compiler.reset()
    network = drawn(depth=1, qk_norm=qk_norm)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        point = inputs(batch=batch)
        for tensor in point:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # from the first call on: one compilation for all sizes
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            got, expected = compiled(*point), network(*point)
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=2e-2 if autocast else 1e-5, atol=2e-2 if autocast else 1e-5)
        gradients = []
        for result in (got, expected):
            network.zero_grad()
            result.float().square().mean().backward()
            gradients.append(network.t_embedder.mlp[0].weight.grad.clone())
        # Of half-precision gradients, only the size is to be compared.
        tolerance = 0.1 if autocast else 1e-4
        assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[1].norm()
