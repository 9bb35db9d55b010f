"""A network that takes guidance as an input, from training to samples at a guidance of one's choice."""

from __future__ import annotations

import pytest
import torch

from rcgm.cli import main
from rcgm.config import ConfigError
from rcgm.runs import load_run
from rcgm.training import train
from tests.support.rounding import assert_rounded


def test_a_run_is_sampled_at_the_guidance_of_the_command_line(tmp_path, tiny_config):
    config = tiny_config(
        "objective={name: rcgm, guidance: {name: input}, label_dropout: 0.1}", "data.labels=true",
        "model.guidance_input=true", "sample.guidance=2.0", "sample.every=6", "sample.count=4",
    )  # fmt: skip
    train(config, tmp_path / "run", show_progress=False)
    picture = tmp_path / "samples.npz"
    words = ["sample", str(tmp_path / "run"), "--guidance", "2.5", "--steps", "1", "--count", "6", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "samples.png"), "--npz", str(picture)]) == 0
    run = load_run(tmp_path / "run", device=torch.device("cpu"))
    calls = []
    run.network.register_forward_pre_hook(lambda module, given: calls.append(given[3]["guidance"]))
    run.sampler(guidance=2.5).draw(6, steps=1)
    (guidance,) = calls
    assert_rounded(guidance, torch.tensor([[2.5, 0.0, 1.0]]).expand(6, 3))
    with pytest.raises(ConfigError, match="guidance must be at least 1 for a network with guidance_input, got 0"):
        run.sampler(guidance=0.0)
