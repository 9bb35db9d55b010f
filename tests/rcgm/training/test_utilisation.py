import pytest
import torch

from rcgm.config import build_model_from, parse_config
from rcgm.data import DataInfo
from rcgm.training import train
from rcgm.training.utilisation import Utilisation, forward_flops, peak_flops, published_peak

CPU = torch.device("cpu")
INFO = DataInfo((4, 32, 32), 1000, "images")


def config(**more):
    return parse_config(
        {
            "steps": 1,
            "batch_size": 4,
            "data": {"name": "digits"},
            "model": {"name": "dit", "preset": "XL/2", "input_size": 32, "in_channels": 4, "num_classes": 1000},
            "objective": {"name": "rcgm"},
            **more,
        }
    )


def build():
    return build_model_from(config())


def test_dit_xl_2_costs_what_is_published_and_no_memory():
    # Peebles & Xie 2023, table 4: 118.64 GFLOPs, a multiplication and an addition being one.
    assert forward_flops(build, INFO) == pytest.approx(2 * 118.64e9, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GB200", 2500.0),
        ("Tesla K80", None),
    ],
)
def test_rates_by_name(name, tflops):
    assert published_peak(name) == (None if tflops is None else tflops * 1e12)


def test_a_cpu_has_no_rate_but_the_one_it_is_given():
    assert peak_flops(CPU) is None
    assert peak_flops(CPU, 0.5) == 5e11
    assert Utilisation(build, INFO, CPU).share(10, 1, 1.0) == {}
    given = Utilisation(build, INFO, CPU, 10.0)
    assert given.share(100, 3, 60.0)["mfu"] == pytest.approx(100 * 3 * 2 * 118.64e9 / (60 * 1e13), rel=2e-3)


def test_a_run_reports_it(tmp_path, tiny_config):
    summary = train(tiny_config("logging.peak_tflops=0.01"), tmp_path, show_progress=False)
    assert 0 < summary["final"]["mfu"] < 1
    other = train(tiny_config(), tmp_path / "none", show_progress=False)
    assert "mfu" not in other["final"]
