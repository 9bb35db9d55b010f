"""A process that crashes is seen, though the others only lost their connection to it."""

import os

import pytest
import torch

from rcgm.distributed import running_processes
from tests.support.launching import run_ranks


def crash_while_the_other_waits() -> None:
    with running_processes("cpu") as processes:
        if processes.rank == 1:
            os.abort()
        torch.distributed.all_reduce(torch.ones(1))


def test_the_crash_is_told(tmp_path):
    with pytest.raises(AssertionError, match=r"(?s)rank 0 ended with 1:.*rank 1 ended with -6:.*in crash_while"):
        run_ranks(crash_while_the_other_waits, (), 2, tmp_path)
