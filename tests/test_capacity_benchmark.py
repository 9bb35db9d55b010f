"""The capacity benchmark: its search, its networks, and that it runs, small."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks import capacity, environment
from benchmarks.capacity import FULL, Try, attempt, largest, parameters

CPU = torch.device("cpu")


def never() -> float:
    return time.perf_counter() + 1e6


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 12, 40, 100, 1000])
def test_the_search_ends_within_an_eighth_below_the_limit(limit):
    tried = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found = largest(fits, 1, 4096, never(), step=1)
    assert found["fits"] <= limit < found["fails"]
    assert found["fails"] - found["fits"] <= max(1, found["fits"] // 8)
    assert len(tried) == len(set(tried)) <= 16


def test_the_search_keeps_to_its_steps_and_range():
    assert largest(lambda n: n <= 29, 16, 256, never(), step=2) == {"fits": 28, "fails": 30}
    assert largest(lambda n: True, 16, 64, never(), step=2) == {"fits": 64, "fails": None}
    assert largest(lambda n: False, 16, 64, never(), step=2) == {"fits": None, "fails": 16}


def test_a_search_without_time_says_that_nothing_is_known():
    assert largest(lambda n: True, 1, 64, time.perf_counter(), step=1) == {"fits": None, "fails": None}


def test_sixteen_heads_are_the_published_xl():
    assert 670e6 < parameters(Try("flow matching", 1, 16)) < 680e6
    assert parameters(Try("flow matching", 1, 32)) > 7 * parameters(Try("flow matching", 1, 16))


def test_a_try_that_runs_out_of_memory_says_so_by_its_code(monkeypatch: pytest.MonkeyPatch):
    one = Try("flow matching", 2, 2, small=True)
    assert attempt(one, CPU) == 0

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Try, "bench", full)
    assert attempt(one, CPU) == FULL


def test_the_benchmark_runs_small(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    variants = ["flow matching", "MeanFlow, jvp with gradient", "MeanFlow, jvp with gradient, flash"]
    capacity.main(
        ["--budget-mib", "8", "--name", "trial", *(part for variant in variants for part in ("--variant", variant))]
    )
    rows = {row["variant"]: row for row in json.loads((tmp_path / "trial.json").read_text())["rows"]}
    assert rows["flow matching"]["batch"]["fits"] > rows["MeanFlow, jvp with gradient"]["batch"]["fits"] > 0
    assert rows["flow matching"]["parameters"] > 0
    assert rows["MeanFlow, jvp with gradient, flash"]["error"]
