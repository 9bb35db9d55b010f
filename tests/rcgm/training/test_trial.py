"""Shapes of the data that the network does not take are found before the first step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rcgm.config import ConfigError
from rcgm.data import DataInfo
from rcgm.training.trial import check_shapes

SHAPES = [(4, 8, 8), (4, 4, 16), (4, 16, 4)]


class Narrow(nn.Module):
    """Takes nothing that is wider or higher than it says."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.most = height, width

    def forward(self, x, t, r, cond):
        assert x.is_meta and x.shape[0] == 1
        if x.shape[2] > self.most[0] or x.shape[3] > self.most[1]:
            raise ValueError("too large for its embeddings")
        return x


class Pictures:
    """One sample of each shape."""

    info = DataInfo(SHAPES[0], None, "images")
    buckets = tuple(range(index, index + 1) for index in range(len(SHAPES)))

    def __getitem__(self, index):
        return torch.zeros(SHAPES[index]), None


@pytest.mark.parametrize(("height", "width", "named"), [(16, 15, "4 x 4 x 16"), (15, 16, "4 x 16 x 4")])
def test_the_shape_that_does_not_fit_is_named(height, width, named):
    with pytest.raises(ConfigError, match=f"data: .* samples of {named}: too large for its embeddings. Leave them out"):
        check_shapes(lambda: Narrow(height, width), Pictures())


def test_all_that_fits_passes():
    check_shapes(lambda: Narrow(16, 16), Pictures())


def test_data_of_one_shape_are_left_to_the_first_step():
    check_shapes(lambda: pytest.fail("built"), SimpleNamespace(info=Pictures.info))
