import itertools

import pytest
import torch

from rcgm.data.in_memory import InMemoryDataset
from rcgm.data.info import DataInfo
from rcgm.data.stream import BatchStream
from rcgm.seeds import Purpose, seed_of, seeded_generator

NUMBERS = (0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, 2**64 + 3)


def test_no_two_uses_share_a_seed():
    """Keys of all lengths, with zeros at every place, and numbers that look like two of 32 bits."""
    keys = [key for length in range(4) for key in itertools.product(NUMBERS, repeat=length)]
    uses = [(seed, purpose, key) for seed in (0, 1, 2**32, 2**33) for purpose in Purpose for key in keys]
    assert len(uses) > 20_000
    assert len({seed_of(seed, purpose, *key) for seed, purpose, key in uses}) == len(uses)


def test_no_two_generators_of_a_run_share_a_state():
    # 2,510 seeds of 32 bits: by chance two are alike with a probability of 0.1%, and these are not
    keys = [(), *((step,) for step in range(150)), *((epoch, 0) for epoch in range(100))]
    uses = [(purpose, key) for purpose in Purpose for key in keys]
    states = {seeded_generator(0, purpose, *key).get_state().numpy().tobytes() for purpose, key in uses}
    assert len(states) == len(uses)


def test_numbers_follow_from_the_seed_alone():
    assert seed_of(3, Purpose.TRAINING, 7) == seed_of(3, Purpose.TRAINING, 7)
    assert torch.equal(*(torch.rand(3, generator=seeded_generator(3, Purpose.ORDER, 7)) for _ in range(2)))
    assert 0 <= seed_of(3, Purpose.TRAINING, 7) < 2**63


def test_neighbouring_steps_share_no_pattern():
    low_bits = [seed_of(0, Purpose.TRAINING, step) & 0xFF for step in range(4096)]
    counts = torch.bincount(torch.tensor(low_bits), minlength=256)
    assert counts.max() < 45  # 16 expected; 45 is beyond 7 standard deviations
    assert counts.min() > 0


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_of_an_epoch_is_not_drawn_from_the_numbers_of_a_step(epoch):
    data = InMemoryDataset(torch.zeros(50, 2), None, DataInfo((2,), None, "points"))
    order = BatchStream(data, 50, 0).indices(epoch)
    for purpose in Purpose:
        for key in ((), (epoch,), (epoch, 0), (0, epoch)):
            same = torch.equal(order, torch.randperm(50, generator=seeded_generator(0, purpose, *key)))
            assert same == (purpose == Purpose.ORDER and key == (epoch,))
