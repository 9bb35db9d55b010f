import torch

from rcgm.shares import Processes
from rcgm.training.randomness import (
    Purpose,
    global_random_state,
    mixed_seed,
    restore_global_random_state,
)


def test_every_part_of_the_key_changes_the_seed():
    keys = [(0, Purpose.TRAINING, 1, 0), (1, Purpose.TRAINING, 1, 0), (0, Purpose.PREVIEW, 1, 0)]
    keys += [(0, Purpose.TRAINING, 2, 0), (0, Purpose.TRAINING, 1, 1), (0, Purpose.TRAINING, 0, 1)]
    seeds = [mixed_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_neighbouring_steps_share_no_pattern():
    low_bits = [mixed_seed(0, Purpose.TRAINING, step, 0) & 0xFF for step in range(4096)]
    counts = torch.bincount(torch.tensor(low_bits), minlength=256)
    assert counts.max() < 45  # 16 expected; 45 is beyond 7 standard deviations
    assert counts.min() > 0


def test_global_state_comes_back():
    device, alone = torch.device("cpu"), Processes()
    state = global_random_state(device, alone)
    first = torch.rand(5)
    restore_global_random_state(state, device, alone, fresh_seed=0)
    assert torch.equal(torch.rand(5), first)


def test_a_process_that_was_not_there_has_numbers_of_its_own():
    device = torch.device("cpu")
    state = global_random_state(device, Processes())
    drawn = []
    for rank in range(3):
        restore_global_random_state(state, device, Processes(rank, 3), fresh_seed=7)
        drawn.append(tuple(torch.rand(5).tolist()))
    assert len(set(drawn)) == 3
