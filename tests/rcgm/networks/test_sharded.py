"""Two processes with a published network sharded over them make the steps of one, in full and with adapters."""

import json

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from tests.support.launching import run_ranks
from tests.support.shared_family_steps import TUNES, main
from tests.support.tiny_networks import FAMILIES

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    path = folder / "report.json"
    run_ranks(main, (path,), 2, folder)
    return json.loads(path.read_text())


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("name", FAMILIES)
def test_two_processes_make_the_step_of_one(report, name, tune):
    distances = report[f"{name}, {tune}"]
    # A difference of forwards over dt = 0.1. In each of a dozen layers a sum of up to a hundred numbers is rounded, in
    # an order that depends on the number of rows: 10 * 12 * 100 eps at worst. A row left out would be seen as 0.1.
    bound = 12_000 * EPS
    assert max(distances[key] for key in ("losses", "norms", "gradients")) < bound
    # Adam's first step is the learning rate, 1e-3, up or down: the sign of a gradient near 0 is that of rounding. The
    # distance is a part of the largest parameter, which has made such a step too.
    assert distances["parameters"] * (report[f"largest parameter, {name}, {tune}"] - 1e-3) < 2.1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_base_is_gathered_once_in_a_step(report, name):
    gathered = report[f"blocks, {name}"] + 1  # the blocks, and the rest
    assert report[f"gathers, {name}"] == [gathered, gathered]
