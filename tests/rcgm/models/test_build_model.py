import re

import pytest
import torch
import yaml

from rcgm.models import MLP, MODELS, DiT, TextDiT, build_model


def test_registry():
    assert dict(MODELS) == {"dit": DiT, "mlp": MLP, "text_dit": TextDiT}


def test_from_yaml():
    text = """
    name: dit
    preset: nano/2
    input_size: [8, 4]
    in_channels: 1
    num_classes: 10
    depth: 2
    time_scale: 5
    """
    network = build_model(**yaml.safe_load(text))
    assert isinstance(network, DiT)
    assert len(network.blocks) == 2
    assert network.t_embedder.scale == 5.0
    zeros = torch.zeros(3)
    assert network(torch.zeros(3, 1, 8, 4), zeros, zeros, torch.tensor([0, 9, 10])).shape == (3, 1, 8, 4)


def test_without_preset():
    network = build_model("mlp", dim=2, width=8)
    assert isinstance(network, MLP)
    assert network.output.weight.shape == (2, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "unet"}, ValueError, "name must be one of dit, mlp, text_dit, got 'unet'"),
        ({"name": "mlp", "preset": "S/2", "dim": 2}, ValueError, "preset must be left out: 'mlp' has none, got 'S/2'"),
        (
            {"name": "dit", "preset": "S/3", "input_size": 8, "in_channels": 1},
            ValueError,
            "preset must be one of S/1, S/2",
        ),
        ({"name": "dit", "preset": "S/2", "input_size": 8}, TypeError, "in_channels"),
        ({"name": "mlp", "dim": 2, "widht": 8}, TypeError, "widht"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build_model(**arguments)
