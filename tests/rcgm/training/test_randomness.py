import torch

from rcgm.shares import Processes
from rcgm.training.randomness import (
    Purpose,
    global_random_state,
    mixed_seed,
    restore_global_random_state,
    separate_global_generators,
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
    device = torch.device("cpu")
    state = global_random_state(device, Processes())
    first = torch.rand(5)
    restore_global_random_state(state, device, Processes(), 0)
    assert torch.equal(torch.rand(5), first)


def test_a_process_that_was_not_there_gets_numbers_of_its_own():
    device = torch.device("cpu")
    state = global_random_state(device, Processes())
    drawn = []
    for rank, seed in ((0, 3), (1, 3), (2, 3), (1, 4), (1, 3)):
        restore_global_random_state(state, device, Processes(rank, 3), seed)
        drawn.append(tuple(torch.rand(5).tolist()))
    assert len(set(drawn)) == 4 and drawn[1] == drawn[4]


def test_processes_draw_different_numbers_after_the_initial_weights():
    drawn = []
    for rank in range(3):
        torch.manual_seed(5)
        separate_global_generators(7, Processes(rank, 3))
        drawn.append(torch.rand(2))
    torch.manual_seed(5)
    assert torch.equal(drawn[0], torch.rand(2))
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
