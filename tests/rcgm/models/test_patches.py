"""Patches whose windows overlap."""

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from rcgm.models import DiT
from rcgm.models.patches import PatchEmbedder, join_patches, join_windows

DTYPE = torch.float64
EPS = torch.finfo(DTYPE).eps
GRIDS = [((3, 2), 4, 1), ((1, 1), 2, 2), ((2, 4), 7, 3)]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=DTYPE)


@pytest.mark.parametrize(("grid", "size", "overlap"), GRIDS)
def test_tokens_are_those_of_a_convolution(grid, size, overlap):
    x = drawn(2, 3, grid[0] * size, grid[1] * size)
    embed = PatchEmbedder(3, size, 5, overlap=overlap).to(DTYPE)
    window = size + 2 * overlap
    weight = embed.proj.weight.view(5, 3, window, window)
    expected = conv2d(x, weight, embed.proj.bias, stride=size, padding=overlap).flatten(2).transpose(1, 2)
    bound = 4 * EPS * weight[0].numel() * x.abs().max() * weight.abs().max()  # a sum of so many products
    assert (embed(x) - expected).abs().max() <= bound


@pytest.mark.parametrize(("grid", "size", "overlap"), GRIDS)
def test_windows_are_joined_as_by_a_transposed_convolution(grid, size, overlap):
    window = size + 2 * overlap
    tokens = drawn(2, grid[0] * grid[1], 3 * window**2)
    each = torch.eye(3 * window**2, dtype=DTYPE).view(-1, 3, window, window)
    image = tokens.transpose(1, 2).unflatten(2, grid)
    expected = conv_transpose2d(image, each, stride=size, padding=overlap)
    result = join_windows(tokens, grid, size, overlap)
    assert result.is_contiguous()
    assert (result - expected).abs().max() <= 16 * EPS * tokens.abs().max()  # at most 9 windows meet in a pixel


def test_without_overlap_both_ways_of_joining_agree():
    tokens = drawn(2, 6, 4 * 4 * 3)  # (row, column, channel)
    reordered = tokens.unflatten(2, (4, 4, 3)).movedim(-1, 2).flatten(2)  # (channel, row, column)
    assert torch.equal(join_patches(tokens, (3, 2), 4), join_windows(reordered, (3, 2), 4, 0))


def test_a_network_with_overlap():
    network = DiT(
        input_size=(8, 4), in_channels=2, patch_size=4, patch_overlap=2, hidden_size=8, depth=1, num_heads=2,
    )  # fmt: skip
    assert network.arguments["patch_overlap"] == 2
    torch.nn.init.normal_(network.final_layer.linear.weight, generator=torch.Generator().manual_seed(0))
    x, t = drawn(3, 2, 8, 4).float(), torch.tensor([0.1, 0.5, 1.0])
    result = network(x, t, t / 2)
    assert result.shape == x.shape
    # what one patch says reaches over its border
    tokens = torch.zeros(1, 2, 2 * 64, dtype=DTYPE)
    tokens[0, 0] = 1
    reached = join_windows(tokens, (2, 1), 4, 2)[0, 0].any(1)
    assert reached.tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("overlap", "message"),
    [(-1, "patch_overlap must be at least 0, got -1"), (5, "patch_overlap must be at most patch_size, 4, got 5")],
)
def test_an_overlap_that_does_not_fit_is_refused(overlap, message):
    with pytest.raises(ValueError, match=message):
        DiT(input_size=8, in_channels=1, patch_size=4, patch_overlap=overlap, hidden_size=8, depth=1, num_heads=2)
