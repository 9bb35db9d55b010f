"""Sharded networks with dropout: the evaluations of a sample share their draws, in two processes as in one."""

import json

import pytest

from tests.support.launching import run_ranks
from tests.support.shared_draws import OBJECTIVES, SHARDED, main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draws")
    run_ranks(main, (folder / "report.json",), 2, folder)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("way", SHARDED)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_sharded_networks_draw_the_same_in_all_evaluations_of_a_sample(report, name, way):
    # float64, whose rounding a difference over a step of 0.005 multiplies by 200
    assert report[f"{name}, {way}"] < 1e-11
