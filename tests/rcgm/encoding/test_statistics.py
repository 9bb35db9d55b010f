import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcgm.encoding import ChannelStatistics


@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e4]))
@settings(max_examples=40, deadline=None)
def test_parts_merge_to_the_whole(parts, offset):
    # An offset of 1e4 would cost the sum of squares of float32 numbers all its digits.
    values = torch.randn(sum(parts), 3, 2, 2, generator=torch.Generator().manual_seed(0)) + offset
    merged = ChannelStatistics.empty(3)
    for part in values.split(parts):
        merged = merged.merged(ChannelStatistics.of(part))
    assert merged.count == sum(parts) * 4
    torch.testing.assert_close(merged.mean, values.double().mean(dim=(0, 2, 3)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.std, values.double().std(dim=(0, 2, 3), correction=0), rtol=1e-9, atol=0)


def test_the_variance_of_draws_includes_that_of_each_gaussian():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 2, 4, 4, generator=generator)
    std = torch.rand(500, 2, 4, 4, generator=generator) * 2
    draws = mean + std * torch.randn(mean.shape, generator=generator)
    expected, drawn = ChannelStatistics.of(mean, std), ChannelStatistics.of(draws)
    torch.testing.assert_close(expected.std, drawn.std, rtol=0.02, atol=0)
    assert (expected.std > 1.2 * ChannelStatistics.of(mean).std).all()


def test_json_keeps_every_digit():
    statistics = ChannelStatistics.of(torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)))
    again = ChannelStatistics.from_plain(json.loads(json.dumps(statistics.to_plain())))
    assert torch.equal(again.mean, statistics.mean) and torch.equal(again.std, statistics.std)


def test_nothing_merges_with_nothing():
    assert ChannelStatistics.empty(2).merged(ChannelStatistics.empty(2)).count == 0
