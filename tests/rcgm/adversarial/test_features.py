"""Features of a network are what its blocks put out."""

import pytest
import torch
from torch import nn

from rcgm.adversarial import Features
from rcgm.models import MLP
from tests.support.small_dit import drawn, inputs


@pytest.mark.parametrize(
    ("count", "places"), [(1, [4]), (2, [1, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_the_last_block_and_others_evenly_before(count, places):
    network = drawn(depth=5)
    x, t, _, cond = inputs()
    expected = []
    for place in places:
        network.blocks[place].register_forward_hook(lambda block, inputs, output: expected.append(output))
    features = Features(network, count)
    with torch.no_grad():
        network(x, t, t, cond)
        got = features(x, t, cond)
    assert len(got) == len(places)
    for one, other in zip(expected, got, strict=False):
        assert torch.equal(one, other)


def test_they_have_a_gradient_to_the_states():
    network = drawn().requires_grad_(False)
    x, t, _, cond = inputs()
    x.requires_grad_()
    first, second = Features(network, 2)(x, t, cond)
    (first.square().sum() + second.sum()).backward()
    assert x.grad.abs().amin() > 0


def test_other_forwards_leave_them_alone():
    network = drawn()
    x, t, r, cond = inputs()
    features = Features(network, 2)
    got = features(x, t, cond)
    network(2 * x, t, r, cond)
    assert len(got) == 2
    assert features.widths(x, cond) == [16, 16]


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.fails = False

    def forward(self, x, t, r, cond):
        if self.fails:
            raise RuntimeError("no memory")
        return self.blocks[0](x)


def test_a_forward_that_fails_leaves_nothing_behind():
    network = Failing()
    features = Features(network)
    x, t = torch.zeros(2, 3, 4), torch.ones(2)
    network.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        features(x, t)
    network.fails = False
    assert len(features(x, t)) == 1


def test_networks_without_blocks_and_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match=r"network must have blocks, .* got MLP"):
        Features(MLP(dim=2))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        Features(drawn(), 0)
