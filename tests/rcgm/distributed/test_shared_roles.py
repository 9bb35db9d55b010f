"""Two processes with a sharded base make the steps of one, and gather it once."""

import json

import pytest
import torch

pytest.importorskip("peft")

from tests.support.launching import run_ranks
from tests.support.shared_role_steps import CASES, main
from tests.support.shared_steps import DEPTH

GATHERED = DEPTH + 1  # what is gathered in a forward: each block, and the rest


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles")
    path = folder / "report.json"
    run_ranks(main, (path,), 2, folder)
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_numbers_of_one(report, case):
    """The bounds of ``test_shared_steps.py``, for the same reasons."""
    distances = report[case]
    assert {"losses", "norms", "gradients", "parameters", "average"} <= set(distances)
    assert max(distances[name] for name in ("gradients", "parameters", "average")) < 1e-10
    assert max(distances.values()) < 1e-6


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_base_is_gathered_once_in_a_step(report, order):
    """Target, teacher and student, forward and backward."""
    assert report[f"gathers, kept True, order {order}"] == [GATHERED, GATHERED]


@pytest.mark.parametrize(("order", "waves"), [(1, 1), (2, 2), (4, 2)])
def test_or_once_in_a_forward_where_it_is_not_kept(report, order, waves):
    """Blocks alone: what is left of the network stays until the backward."""
    teacher, student, backward = 1, 1, 1
    expected = (waves + teacher + student + backward) * DEPTH + 1
    assert report[f"gathers, kept False, order {order}"] == [expected, expected]


def test_a_half_precision_base_is_sharded_with_adapters_in_full_precision(report):
    # The forwards round to bfloat16, whose eps is 2^-7, in each of two blocks, and the rounding of a sum depends on how
    # many rows a matrix product has. Adam moves a parameter by its learning rate, 1e-3, up or down, in each of two
    # steps: 4e-3 apart at worst, where the largest parameter is above 1/2.
    eps = torch.finfo(torch.bfloat16).eps
    distances = report["mixed"]
    assert max(distances[name] for name in ("losses", "norms", "gradients")) < 8 * eps
    assert max(distances["parameters"], distances["average"]) < 8e-3
    assert report["mixed dtypes"] == ["torch.float32"]
    assert report["mixed gathers"] == [GATHERED, GATHERED]
