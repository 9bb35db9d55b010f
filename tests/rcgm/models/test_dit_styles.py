"""The options that LightningDiT, UCGM and TiM add to the transformer of DiT."""

import re
import sys
import types

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.models import PRESETS, DiT, build_model
from rcgm.models.positions import rotate, rotations_2d
from tests.support.small_dit import SMALL, drawn, inputs

LIGHTNING = {"norm": "rms_gain", "feed_forward": "swiglu", "positions": "sincos_rope", "qk_norm": True}
STYLES = {
    "LightningDiT": LIGHTNING,
    "UCGM": {"norm": "rms", "feed_forward": "swiglu", "positions": "rope"},
    "TiM": {"feed_forward": "swiglu", "positions": "rope", "interval_aware": True, "qk_norm": True},
}
WITH_DIT = {"DiT": {}, "DiT, queries and keys normalised": {"qk_norm": True}, **STYLES}


@pytest.mark.parametrize("style", WITH_DIT)
def test_gradient_reaches_every_parameter(style):
    network = drawn(**WITH_DIT[style])
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("style", STYLES)
def test_starts_as_the_function_0(style):
    network = DiT(**SMALL, **STYLES[style])
    assert network(*inputs()).abs().max() == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(*inputs()).abs().max() == 0


@pytest.mark.parametrize("style", WITH_DIT)
def test_forward_mode_derivative_along_the_path(style):
    network = drawn(torch.float64, **WITH_DIT[style])
    x, t, r, cond = inputs(torch.float64)
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with sdpa_kernel(SDPBackend.MATH):
        _, derivative = torch.func.jvp(lambda x, t: network(x, t, r, cond), (x, t), (v, torch.ones_like(t)))
    step = 1e-5
    ahead, behind = (network(x + s * v, t + s, r, cond) for s in (step, -step))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("style", ["LightningDiT", "TiM"])
def test_blocks_compile_as_one_graph(style, autocast):
    torch.compiler.reset()
    network = drawn(depth=1, **STYLES[style])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = network(*inputs())
        block = network.blocks[0]
        block.forward = torch.compile(block.forward, fullgraph=True, backend="aot_eager")
        got = network(*inputs())
    tolerance = 2e-2 if autocast else 1e-5
    assert got.dtype == expected.dtype == (torch.bfloat16 if autocast else torch.float32)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("weights", "autocast"), [("float32", True), ("bfloat16", True), ("bfloat16", False)])
def test_half_precision_leaves_tokens_and_times_in_float32(style, weights, autocast):
    network = drawn(getattr(torch, weights), std=0.2, **STYLES[style])
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append([arguments[i].dtype for i in (0, 1, 3)]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = network(*inputs())
    assert result.dtype == torch.bfloat16
    assert seen == [[torch.float32] * 3] * 2
    torch.testing.assert_close(result.float(), network.float()(*inputs()), rtol=0.06, atol=0.06)


@pytest.mark.parametrize(
    ("style", "buffers"),
    [
        ({"qk_norm": True}, {"pos_embed"}),
        ({**LIGHTNING, "interval_aware": True}, {"pos_embed", "rope_cos", "rope_sin"}),
    ],
)
def test_built_on_the_meta_device_and_filled_later(style, buffers):
    expected = DiT(**SMALL, **style, generator=torch.Generator().manual_seed(3))
    with torch.device("meta"):
        network = DiT(**SMALL, **style)
    network.to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.fill_(float("nan"))
    network.reset_parameters(torch.Generator().manual_seed(3))
    expected_tensors = {**expected.state_dict(), **dict(expected.named_buffers())}
    got_tensors = {**network.state_dict(), **dict(network.named_buffers())}
    assert got_tensors.keys() == expected_tensors.keys() >= buffers
    assert all(torch.equal(got_tensors[name], expected_tensors[name]) for name in expected_tensors)


def test_swiglu_by_definition():
    network = drawn(torch.float64, feed_forward="swiglu")
    mlp = network.blocks[0].mlp
    assert mlp.w12.weight.shape == (2 * 42, 16) and mlp.w3.weight.shape == (16, 42)  # 42 = int(2/3 of 64)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    first, second = (x @ mlp.w12.weight.T + mlp.w12.bias).split(42, dim=2)
    expected = (first / (1 + torch.exp(-first)) * second) @ mlp.w3.weight.T + mlp.w3.bias
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(("norm", "gain"), [("layer", False), ("rms", False), ("rms_gain", True)])
def test_norms_by_definition(norm, gain):
    module = drawn(torch.float64, norm=norm).blocks[0].norm1
    assert (sum(1 for _ in module.parameters()) == 1) == gain
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    centred = x - x.mean(2, keepdim=True) if norm == "layer" else x
    expected = centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt() * (module.weight if gain else 1)
    torch.testing.assert_close(module(x), expected)


class ApexNorm(torch.nn.Module):
    """With the arguments and the parameter of apex's."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, memory_efficient=False):
        super().__init__()
        self.shape, self.eps = (normalized_shape,), eps
        self.register_parameter("weight", None)
        if elementwise_affine:
            self.weight = torch.nn.Parameter(torch.empty(normalized_shape))


class FusedLayerNorm(ApexNorm):
    def forward(self, x):
        return torch.nn.functional.layer_norm(x, self.shape, self.weight, None, self.eps)


class FusedRMSNorm(ApexNorm):
    def forward(self, x):
        return torch.nn.functional.rms_norm(x, self.shape, self.weight, self.eps)


@pytest.mark.parametrize("norm", ["layer", "rms", "rms_gain"])
def test_norms_of_apex_take_the_weights_of_torch(norm, monkeypatch):
    module = types.ModuleType("apex.normalization")
    module.FusedLayerNorm, module.FusedRMSNorm = FusedLayerNorm, FusedRMSNorm
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.normalization", module)
    network, expected = DiT(**SMALL, norm=f"apex_{norm}"), drawn(norm=norm)
    assert isinstance(network.blocks[0].norm1, ApexNorm) and isinstance(network.final_layer.norm_final, ApexNorm)
    if norm == "rms_gain":
        assert torch.equal(network.blocks[1].norm2.weight, torch.ones(16))
    network.load_state_dict(expected.state_dict())
    torch.testing.assert_close(network(*inputs()), expected(*inputs()))


def test_norms_of_apex_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex.normalization", None)
    with pytest.raises(ValueError, match=r"norm needs NVIDIA apex, which is not installed .*github.com/NVIDIA/apex"):
        DiT(**SMALL, norm="apex_rms")


def test_interval_aware_attention_by_definition():
    attention = drawn(torch.float64, interval_aware=True).blocks[0].attn
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    interval = torch.randn(2, 16, dtype=torch.float64)
    qkv = x @ attention.qkv.weight.T + attention.qkv.bias + (interval @ attention.qkv_interval.weight.T)[:, None]
    q, k, v = (part.unflatten(2, (4, 4)) for part in qkv.split(16, dim=2))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 2).softmax(3)
    heads = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
    expected = heads @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x, None, interval), expected)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (4, 2)])
def test_rotations_are_complex_multiplications(grid):
    cosines, sines = rotations_2d(8, grid)
    x = torch.randn(2, grid[0] * grid[1], 3, 8, dtype=torch.float64)
    rotated = torch.view_as_complex(rotate(x, cosines, sines).unflatten(3, (4, 2)))
    pairs = torch.view_as_complex(x.unflatten(3, (4, 2)))
    frequencies = [1.0, 0.01]  # 10000^0 and 10000^(-1/2)
    for token in range(grid[0] * grid[1]):
        row, column = divmod(token, grid[1])
        phases = torch.tensor([place * frequency for place in (row, column) for frequency in frequencies])
        torch.testing.assert_close(rotated[:, token], pairs[:, token] * torch.exp(1j * phases.double()))


def test_rotated_products_depend_on_the_difference_of_positions():
    cosines, sines = rotations_2d(8, (5, 7))
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).unbind(0)
    rotated_q = rotate(q.expand(1, 35, 1, 8), cosines, sines).view(5, 7, 8)
    rotated_k = rotate(k.expand(1, 35, 1, 8), cosines, sines).view(5, 7, 8)
    products = torch.einsum("abd,ced->abce", rotated_q, rotated_k)
    torch.testing.assert_close(products[1, 2, 3, 1], products[0, 5, 2, 4])
    assert (products[1, 2, 3, 1] - products[1, 2, 1, 3]).abs() > 1e-3


def test_arguments_build_the_same_network_again():
    network = DiT(**SMALL, **STYLES["TiM"], mlp_ratio=2.0, time_scale=3.0, attention="sdpa_math", embedder_init="wide")
    again = build_model("dit", **network.arguments)
    again.load_state_dict(network.state_dict())
    assert again.arguments == network.arguments
    assert {name: tensor.shape for name, tensor in network.named_buffers()} == {
        name: tensor.shape for name, tensor in again.named_buffers()
    }
    assert torch.equal(again(*inputs()), network(*inputs()))


# Of the published module, variance and positions not counted; ours has an interval embedding more.
@pytest.mark.parametrize(
    ("preset", "channels", "published"),
    [
        ("LightningDiT-XL/1", 32, 28 * (1152 * (3 + 1 + 6 + 8) * 1152 + 1152 * (3 + 1 + 6 + 1 + 2) + 6144)),
        ("LightningDiT-1p0B/1", 32, 24 * (1536 * (3 + 1 + 6 + 8) * 1536 + 1536 * (3 + 1 + 6 + 1 + 2) + 8192)),
    ],
)
def test_parameters_of_the_blocks_of_lightningdit(preset, channels, published):
    with torch.device("meta"):
        network = DiT.from_preset(preset, input_size=16, in_channels=channels, num_classes=1000)
    assert sum(parameter.numel() for parameter in network.blocks.parameters()) == published
    assert network.t_embedder.scale == 1.0


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("input_size", [32, (16, 48)])
def test_every_size_takes_every_patch(patch_size, input_size):
    for size in ("S", "B", "L", "XL", "H", "1p0B", "1p6B"):
        with torch.device("meta"):
            network = DiT.from_preset(
                f"{size}/{patch_size}", input_size=input_size, in_channels=4, depth=1, **LIGHTNING
            )
            x, t = torch.empty(2, 4, *network.input_size), torch.empty(2)
            assert network(x, t, t).shape == x.shape


def test_presets_hold_arguments_of_the_constructor():
    for preset in PRESETS:
        with torch.device("meta"):
            DiT.from_preset(preset, input_size=8, in_channels=1, depth=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"norm": "batch"},
            "norm must be one of layer, rms, rms_gain, apex_layer, apex_rms, apex_rms_gain, got 'batch'",
        ),
        ({"feed_forward": "relu"}, "feed_forward must be one of gelu, swiglu, got 'relu'"),
        ({"positions": "learned"}, "positions must be one of sincos, rope, sincos_rope, got 'learned'"),
        ({"positions": "rope", "num_heads": 8}, "hidden_size / num_heads must be a multiple of 4 for rotary positions"),
        ({"attention": "fast"}, "attention must be one of sdpa, "),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DiT(**{**SMALL, **arguments})
    with pytest.raises(TypeError, match="interval_aware must be True or False, got 1"):
        DiT(**SMALL, interval_aware=1)
