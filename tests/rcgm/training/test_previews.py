"""Pictures of samples: what cannot be drawn is known before the first step."""

import pytest
import torch

from rcgm.config import ConfigError, SampleConfig
from rcgm.data import DataInfo
from rcgm.data.in_memory import InMemoryDataset
from rcgm.models import DiT
from rcgm.runs import RunFolder, RunSampler
from rcgm.training.previews import Previews


@pytest.mark.parametrize("name", ["caf\udce9", "two\nlines", "\x1b[31m"])
def test_names_of_classes_that_cannot_be_drawn_are_refused(tmp_path, name):
    info = DataInfo((1, 4, 4), 2, "images", ("café 東", name), value_range=(-1.0, 1.0))
    dataset = InMemoryDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), info)
    sampler = RunSampler(DiT.from_preset("nano/2", input_size=4, in_channels=1, num_classes=2), info)
    with pytest.raises(ConfigError, match=r"the name of class .* cannot be drawn: rename its folder") as raised:
        Previews(SampleConfig(), sampler, dataset, RunFolder(tmp_path), torch.device("cpu"))
    assert repr(name) in str(raised.value)
