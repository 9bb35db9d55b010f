import torch

from rcgm.distributed.shares import Processes
from rcgm.training.randomness import (
    global_random_state,
    restore_global_random_state,
    separate_global_generators,
)


def test_global_state_comes_back():
    device = torch.device("cpu")
    state = global_random_state(device, Processes())
    first = torch.rand(5)
    restore_global_random_state(state, device, Processes(), seed=0, step=0)
    assert torch.equal(torch.rand(5), first)


def test_a_process_that_was_not_there_gets_numbers_of_its_own():
    device = torch.device("cpu")
    state = global_random_state(device, Processes())
    drawn = []
    for rank, seed, step in ((0, 3, 5), (1, 3, 5), (2, 3, 5), (1, 4, 4), (1, 3, 5)):
        restore_global_random_state(state, device, Processes(rank, 3), seed=seed, step=step)
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
