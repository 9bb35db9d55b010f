import copy
import math
import re

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.models import PRESETS, DiT
from rcgm.models.embeddings import sinusoidal_embedding
from rcgm.models.positions import sincos_positions_2d

SMALL = {
    "input_size": (4, 6),
    "in_channels": 3,
    "patch_size": 2,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "frequency_size": 16,
}


def drawn(dtype=torch.float32, std=0.3, **arguments):
    """A small network away from its initial zeros."""
    network = DiT(**{**SMALL, **arguments})
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return network.to(dtype)


def inputs(dtype=torch.float32, batch=3, shape=(3, 4, 6)):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    r = t * torch.rand(batch, generator=generator, dtype=torch.float64)
    times = torch.float64 if dtype == torch.float64 else torch.float32
    return x, t.to(times), r.to(times), torch.arange(batch) % 6


def dit_by_definition(network, x, t, r, cond):
    """The formulas of the paper in plain tensors, patch by patch."""
    weights = dict(network.named_parameters())

    def linear(name, value):
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def silu(value):
        return value / (1 + torch.exp(-value))

    def gelu(value):
        return 0.5 * value * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    def normalised(value):
        centred = value - value.mean(2, keepdim=True)
        return centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()

    def modulated(value, shift, scale):
        return normalised(value) * (1 + scale[:, None]) + shift[:, None]

    def embedded(name, time):
        features = sinusoidal_embedding(time, 16, scale=7.0, dtype=torch.float64)
        return linear(f"{name}.mlp.2", silu(linear(f"{name}.mlp.0", features)))

    size = network.patch_size
    cells = [(row, column) for row in range(0, x.shape[2], size) for column in range(0, x.shape[3], size)]
    patches = [x[:, :, row : row + size, column : column + size].flatten(1) for row, column in cells]
    grid = (x.shape[2] // size, x.shape[3] // size)
    # Positions are kept in float32.
    positions = sincos_positions_2d(16, grid).float().double()
    tokens = linear("x_embedder.proj", torch.stack(patches, 1)) + positions
    c = (
        embedded("t_embedder", t)
        + embedded("interval_embedder", t - r)
        + weights["y_embedder.embedding_table.weight"][cond]
    )
    for block in range(2):
        parts = linear(f"blocks.{block}.adaLN_modulation.1", silu(c)).split(16, dim=1)
        h = modulated(tokens, parts[0], parts[1])
        q, k, v = (part.unflatten(2, (4, 4)) for part in linear(f"blocks.{block}.attn.qkv", h).split(16, dim=2))
        attention = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2, dim=3)
        heads = torch.einsum("bhqk,bkhd->bqhd", attention, v).flatten(2)
        tokens = tokens + parts[2][:, None] * linear(f"blocks.{block}.attn.proj", heads)
        h = modulated(tokens, parts[3], parts[4])
        tokens = tokens + parts[5][:, None] * linear(
            f"blocks.{block}.mlp.fc2", gelu(linear(f"blocks.{block}.mlp.fc1", h))
        )
    shift, scale = linear("final_layer.adaLN_modulation.1", silu(c)).split(16, dim=1)
    pixels = linear("final_layer.linear", modulated(tokens, shift, scale))
    result = torch.empty_like(x)
    for token, (row, column) in enumerate(cells):
        patch = pixels[:, token].unflatten(1, (size, size, x.shape[1]))
        result[:, :, row : row + size, column : column + size] = patch.permute(0, 3, 1, 2)
    return result


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


def test_built_on_the_meta_device_and_filled_later():
    expected = DiT(**SMALL, qk_norm=True, generator=torch.Generator().manual_seed(3))
    with torch.device("meta"):
        network = DiT(**SMALL, qk_norm=True)
    network.to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.fill_(float("nan"))
    network.reset_parameters(torch.Generator().manual_seed(3))
    expected_tensors = {**expected.state_dict(), **dict(expected.named_buffers())}
    got_tensors = {**network.state_dict(), **dict(network.named_buffers())}
    assert got_tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(got_tensors[name], expected_tensors[name]) for name in expected_tensors)


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


def test_gradient_reaches_every_parameter():
    network = drawn(qk_norm=True)
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_forward_mode_derivative_along_the_path():
    network = drawn(torch.float64)
    x, t, r, cond = inputs(torch.float64)
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with sdpa_kernel(SDPBackend.MATH):
        _, derivative = torch.func.jvp(lambda x, t: network(x, t, r, cond), (x, t), (v, torch.ones_like(t)))
    step = 1e-5
    ahead, behind = (network(x + s * v, t + s, r, cond) for s in (step, -step))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


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


# Published: DiT-XL/2 has 675,129,632 parameters, with positions (256 x 1152) and a variance (16 more outputs).
PUBLISHED_XL2 = 675_129_632 - 256 * 1152 - 16 * (1152 + 1)


@pytest.mark.parametrize(
    ("preset", "published_millions", "exact"),
    [
        ("S/2", 33, 32_858_896 + (256 + 1 + 384 + 1) * 384),
        ("B/2", 130, 130_303_504 + (256 + 1 + 768 + 1) * 768),
        ("L/2", 458, 457_824_272 + (256 + 1 + 1024 + 1) * 1024),
        ("XL/2", 675, PUBLISHED_XL2 + (256 + 1 + 1152 + 1) * 1152),
    ],
)
def test_parameter_counts_of_the_published_sizes(preset, published_millions, exact):
    with torch.device("meta"):
        network = DiT.from_preset(preset, input_size=32, in_channels=4, num_classes=1000)
    count = sum(parameter.numel() for parameter in network.parameters())
    interval = sum(parameter.numel() for parameter in network.interval_embedder.parameters())
    assert count == exact
    assert (count - interval) / 1e6 == pytest.approx(published_millions, abs=0.5)


def test_presets():
    assert set(PRESETS) == {
        *(f"{size}/{patch}" for size in ("S", "B", "L", "XL", "H", "1p0B", "1p6B") for patch in (1, 2, 4, 8)),
        *(f"{name}-{size}/{patch}" for name in ("DiT", "SiT") for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)),
        *(f"LightningDiT-{size}/{patch}" for size in ("B", "L", "XL", "1p0B", "1p6B") for patch in (1, 2)),
        *(f"{size}/{patch}" for size in ("nano", "micro", "tiny") for patch in (1, 2, 4)),
    }
    limits = {"nano": (3e3, 1e4), "micro": (2e5, 3e5), "tiny": (9e5, 1.1e6)}
    for preset, arguments in PRESETS.items():
        assert arguments["patch_size"] == int(preset.split("/")[1])
        if preset.split("/")[0] in limits:
            network = DiT.from_preset(preset, input_size=8, in_channels=1, num_classes=10)
            low, high = limits[preset.split("/")[0]]
            assert low < sum(parameter.numel() for parameter in network.parameters()) < high


def test_overrides_win_over_the_preset():
    network = DiT.from_preset("nano/2", input_size=4, in_channels=1, depth=3, patch_size=4, qk_norm=True)
    assert len(network.blocks) == 3
    assert network.patch_size == 4
    assert isinstance(network.blocks[0].attn.q_norm, torch.nn.RMSNorm)
    assert PRESETS["nano/2"]["depth"] == 1


def test_names_of_the_published_weights():
    block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
    modules = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    modules += ["final_layer.adaLN_modulation.1", *(f"blocks.{i}.{name}" for i in range(2) for name in block)]
    published = {f"{name}.{part}" for name in modules for part in ("weight", "bias")}
    published.add("y_embedder.embedding_table.weight")
    names = set(DiT(**SMALL).state_dict())
    assert published < names
    assert all(name.startswith("interval_embedder.") for name in names - published)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 5}, ValueError, "input_size must be a multiple of patch_size, got (5, 5) and 2"),
        ({"input_size": (4, 5)}, ValueError, "input_size must be a multiple of patch_size, got (4, 5) and 2"),
        ({"input_size": (4, 4, 4)}, ValueError, "input_size must be one int or two, got 3 of them"),
        ({"input_size": "8"}, TypeError, "input_size must be an int, got '8' of type str"),
        ({"input_size": (4.0, 4)}, TypeError, "input_size must be an int, got 4.0 of type float"),
        ({"input_size": 0}, ValueError, "input_size must be at least 1, got 0"),
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1, got 0"),
        ({"patch_size": 0}, ValueError, "patch_size must be at least 1, got 0"),
        ({"hidden_size": 18, "num_heads": 3}, ValueError, "hidden_size must be a multiple of 4 (positions), got 18"),
        ({"hidden_size": None}, TypeError, "hidden_size must be an int, got None of type NoneType"),
        ({"num_heads": 3}, ValueError, "hidden_size must be a multiple of num_heads, got 16 and 3"),
        ({"depth": True}, TypeError, "depth must be an int, got True of type bool"),
        ({"mlp_ratio": 0}, ValueError, "mlp_ratio must be positive and finite, got 0"),
        ({"mlp_ratio": 0.01}, ValueError, "mlp_ratio must leave the feed-forward layers a width of at least 1"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"time_scale": float("inf")}, ValueError, "time_scale must be positive and finite, got inf"),
        ({"qk_norm": None}, TypeError, "qk_norm must be True or False, got None of type NoneType"),
        ({"frequency_size": 3}, ValueError, "frequency_size must be even"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        DiT(**{**SMALL, **arguments})


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"preset must be one of S/1, .*, got 'H/14' \(did you mean 'H/4'\?\)"):
        DiT.from_preset("H/14", input_size=8, in_channels=1)


X, T = torch.zeros(2, 3, 4, 6), torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 4, 4)}, ValueError, "x must have shape [B, 3, 4, 6], got [2, 3, 4, 4]"),
        ({"x": torch.zeros(3, 4, 6)}, ValueError, "x must have shape [B, 3, 4, 6], got [3, 4, 6]"),
        ({"x": X.long()}, TypeError, "x must be a floating-point tensor, got torch.int64"),
        ({"x": [1.0]}, TypeError, "x must be a floating-point tensor, got list"),
        ({"t": torch.zeros(3)}, ValueError, "t must have shape [2], one time for each sample of x, got [3]"),
        ({"t": torch.tensor(0.5)}, ValueError, "t must have shape [2], one time for each sample of x, got []"),
        ({"t": 0.5}, TypeError, "t must be a tensor, got float"),
        ({"t": T.bfloat16()}, TypeError, "t must be float32 or float64, got torch.bfloat16"),
        ({"r": T.long()}, TypeError, "r must be float32 or float64, got torch.int64"),
        ({"r": None}, TypeError, "r must be a tensor, got NoneType"),
        ({"r": torch.zeros(2, 1)}, ValueError, "r must have shape [2], one time for each sample of x, got [2, 1]"),
        ({"cond": None}, ValueError, "cond must be class indices of shape [2], got None; the null class"),
        ({"cond": [1, 2]}, TypeError, "cond must be a tensor of class indices, got list"),
        ({"cond": T}, TypeError, "cond must hold class indices in int64 or int32, got torch.float32"),
        ({"cond": torch.zeros(1, dtype=torch.int64)}, ValueError, "cond must have shape [2], one class for each"),
    ],
)
def test_forward_refuses(arguments, error, message):
    network = DiT(**SMALL)
    with pytest.raises(error, match=re.escape(message)):
        network(**{"x": X, "t": T, "r": T, "cond": torch.zeros(2, dtype=torch.int64), **arguments})


def test_unconditional_network_refuses_classes():
    with pytest.raises(ValueError, match="cond must be None: this network was built with num_classes=None"):
        DiT(**{**SMALL, "num_classes": None})(X, T, T, torch.zeros(2, dtype=torch.int64))
