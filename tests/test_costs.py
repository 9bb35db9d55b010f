"""The numbers of docs/kernels.md are those of the benchmark, and of arithmetic that a reader can redo."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import costs, environment, kernel_cases, loss_cases
from benchmarks.costs import KERNELS, floor

CPU = torch.device("cpu")
STREAMED, _, TWO_PASSES, *_, INTERPOLATE, ADVANCE, EMA = KERNELS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("order", [0, 2, 8])
def test_bytes_are_those_that_the_benchmark_counts(order, dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_cases, "CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    shape, b = (3, 5), dtype.itemsize
    assert loss_cases.loss_case(shape, dtype, CPU, order).bytes_moved == 15 * STREAMED.bytes_moved(b, order, 2)
    assert kernel_cases.interpolate_case(shape, dtype, CPU).bytes_moved == 15 * INTERPOLATE.bytes_moved(b, order, 2)
    assert kernel_cases.advance_case(shape, dtype, CPU).bytes_moved == 15 * ADVANCE.bytes_moved(b, order, 2)


def test_limits_by_hand():
    # 67 million elements of order 2: 5 tensors of 2 bytes, 671 MB at 4.8 TB/s
    assert floor(STREAMED, 2**26, "H200") == (pytest.approx(139.8e-6, rel=1e-3), "memory")
    assert floor(STREAMED, 2**26, "H100")[0] == pytest.approx(200.3e-6, rel=1e-3)
    assert floor(TWO_PASSES, 2**26, "H200")[0] == pytest.approx(9 / 5 * 139.8e-6, rel=1e-3)
    assert floor(STREAMED, 2**20, "H200")[1] == "launch"
    assert floor(EMA, 675_000_000, "H200") == (pytest.approx(1.96875e-3), "memory")


def test_an_outcome_is_what_the_result_file_says(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    assert costs.outcome(STREAMED, costs.LARGE) == costs.NOT_RUN
    row = {"operation": "fused_loss, order 2", "shape": list(costs.LARGE), "dtype": "bfloat16", "backend": "cuda",
           "microseconds": {"cuda": 170.0}, "graph_microseconds": {}, "share_of_copy": 0.91}  # fmt: skip
    found = {"environment": {"device": "a GPU"}, "rows": [row, {**row, "dtype": "float16"}]}
    (tmp_path / "kernels_cuda.json").write_text(json.dumps(found))
    assert costs.outcome(STREAMED, costs.LARGE) == "cuda 170.0 µs, 91% (a GPU)"
    assert costs.outcome(STREAMED, costs.LATENTS) == costs.NOT_RUN
    assert costs.outcome(TWO_PASSES, costs.LARGE) == "no row of its own"


def test_machine_code_is_counted_by_hand(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Of 29.6 lane instructions a nanosecond, 30 an element: as long as 4.8 bytes of memory, of 10 that it moves."""
    row = {"kernel": STREAMED.name, "version": STREAMED.version, "instructions": 29.65, "registers": 64, "blocks": 4,
           "threads": 256, "bytes_under_way": 32768}  # fmt: skip
    found = {"environment": environment.describe(CPU), "rows": [row, {**row, "bytes_under_way": None}]}
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    environment.write("kernel_code", found)
    lines = costs.code_table().splitlines()
    assert lines[2].endswith("| 30 | 48% | 64 | 4 of 256 | 32 |")
    assert lines[3].endswith("| 4 of 256 |  |")
    assert "needs about 25 KiB under way" in lines[5]
