"""A run of our own text-to-image transformer on encoded pairs of two shapes."""

import torch

from rcgm.config import parse_config
from rcgm.models import TextDiT
from rcgm.runs import load_run
from rcgm.training import train
from tests.support.encoded_pairs import WIDTH, write_pairs


def test_the_width_of_the_text_comes_from_the_data(tmp_path):
    write_pairs(tmp_path / "data", [((4, 4, 6), 6), ((4, 6, 4), 6)], pooled=False)
    config = parse_config(
        {
            "steps": 4,
            "batch_size": 4,
            "device": "cpu",
            "data": {"name": "encoded_pairs", "path": str(tmp_path / "data")},
            "model": {"name": "text_dit", "preset": "nano/2", "interval_aware": True},
            "objective": {"name": "tim", "label_dropout": 0.1},
            "logging": {"tensorboard": False},
            "sample": {"every": 4, "count": 3, "steps": [1]},
        }
    )
    train(config, tmp_path / "run", show_progress=False)
    network = load_run(tmp_path / "run", device=torch.device("cpu")).network
    assert type(network) is TextDiT and network.text_dim == WIDTH and network.in_channels == 4
    assert network.final_layer.linear.weight.any()
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1
