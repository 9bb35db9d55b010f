"""Two processes with sharded parameters make the steps of one."""

import json

import pytest
import torch
from torch.torch_version import TorchVersion

from tests.support.launching import run_ranks
from tests.support.shared_steps import DEPTH, OBJECTIVES, OTHERS, VARIANTS, main

GATHERED = DEPTH + 1  # what is gathered in a forward: each block, and the rest
CASES = [f"{name}, {variant}" for name in OBJECTIVES for variant in VARIANTS] + list(OTHERS)
COMPILED = [name for name in CASES if name.endswith("compiled, and everything") or name == "inductor"]
BFLOAT16 = torch.finfo(torch.bfloat16).eps


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    path = folder / "report.json"
    run_ranks(main, (path,), 2, folder)
    return json.loads(path.read_text())


def assert_rounding_alone(distances: dict[str, float]) -> None:
    # The gradients differ by float64's rounding, 1e-14 at most; Adam divides by the root of the squared gradient, which
    # magnifies it by the largest gradient over the smallest ones, here up to 1e4.
    assert max(distances[name] for name in ("gradients", "parameters", "average")) < 1e-10
    # Losses are summed, and what an objective keeps is stored, in float32, whose eps is 1.2e-7.
    assert max(distances.values()) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_numbers_of_one(report, case):
    distances = report[case]
    assert {"losses", "norms", "gradients", "parameters", "average"} <= set(distances)
    if case == "cast average":
        # The copy is the average, rounded, to the bit. The forward on it rounds to bfloat16, where a difference in
        # the last bit of float32 may give the other neighbour, one eps away. Adam moves a parameter by its learning
        # rate, 1e-3, and where the gradient is nearly 0 both of two steps may go the other way.
        assert distances["cast"] == 0
        assert max(distances[name] for name in ("losses", "norms", "gradients")) < BFLOAT16
        assert max(distances["parameters"], distances["average"]) < 4e-3
    else:
        assert_rounding_alone(distances)


@pytest.mark.parametrize("case", COMPILED[::3])
def test_compiled_cases_compile(report, case):
    """The graphs of the first objective serve the others."""
    assert report[f"frames compiled, {case}"] > 0


def test_gathers_do_not_grow_with_the_order_where_the_target_is_kept(report):
    # of the target once, of the student for forward and backward (where the rest is there still)
    expected = GATHERED + GATHERED + DEPTH
    for order in (1, 2, 4):
        assert report[f"gathers, kept True, order {order}"] == [expected, expected]


def test_gathers_grow_with_the_waves_where_it_is_not(report):
    for order, waves in ((1, 1), (2, 2), (4, 2)):
        expected = waves * GATHERED + GATHERED + DEPTH
        assert report[f"gathers, kept False, order {order}"] == [expected, expected]


def test_parameters_gathered_in_bfloat16_stay_in_float32(report):
    distances = report["gathered in bfloat16"]
    # Parameters rounded to half an eps, 4e-3, through two blocks: seen, and no more than that.
    assert 1e-5 < distances["losses"] < 0.1 and 1e-4 < distances["gradients"] < 0.2
    assert report["dtypes of bfloat16"] == ["torch.float32"]


def test_gradients_are_added_up_once_in_a_step(report):
    assert report["scatters of two micro-batches"] == [GATHERED]


def test_forward_mode_goes_through_sharded_parameters(report):
    """What torch 2.13 does: FSDP2 steps aside for ``torch.func.jvp``, and the tangents are those of one process.

    What torch 2.11 does: FSDP2 fails to allocate what it gathers, and the error says what to choose instead.
    """
    outcome = report["jvp"]
    if torch.__version__ < TorchVersion("2.13") and isinstance(outcome, str):
        assert "Use derivative central or auto" in outcome
    else:
        assert_rounding_alone(outcome)
