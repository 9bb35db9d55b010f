"""Sizes, presets and refused arguments of the transformer."""

import re

import pytest
import torch

from rcgm.models import PRESETS, DiT
from tests.support.small_dit import SMALL

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
