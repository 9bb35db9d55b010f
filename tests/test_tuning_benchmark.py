"""The benchmark of adapters: it runs, small, and what it measured."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from benchmarks import environment
from benchmarks.tuning import SANA, VARIANTS, measure


def test_roles_hold_less_than_copies():
    result = measure({**SANA, "num_layers": 1})
    variants = result["variants"]
    assert set(variants) == set(VARIANTS)
    for recomputed in ("", ", blocks recomputed"):
        copies, roles = variants[f"copies{recomputed}"], variants[f"roles{recomputed}"]
        # gradient, two moments, average and teacher are as large as the network
        assert copies["beyond_base"] > 5 * result["base"]
        assert copies["checkpoint"] > 4 * result["base"]
        assert roles["beyond_base"] < 0.25 * copies["beyond_base"]
        assert roles["checkpoint"] == pytest.approx(4 * roles["trained"], rel=0.01)
        assert roles["trained"] < 0.25 * result["base"]


def test_of_thirty_million_parameters_roles_hold_less_than_a_quarter():
    found = environment.read("tuning")
    assert 28e6 < found["base"] / 4 < 34e6
    variants = found["variants"]
    assert variants["roles"]["beyond_base"] < 0.25 * variants["copies"]["beyond_base"]
