"""The CUDA backend in graphs and on several streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.cuda_cases import BF16, F32, METRICS, TOLERANCE, Case, Place, assert_close, expected, loss_by, moved


def captured(step: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


@pytest.mark.parametrize("size", [48, 4096, 60000, 300000])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_graph_capture(place: Place, metric: str, size: int) -> None:
    if place.library is not None:
        pytest.skip(f"graphs need a GPU: {cuda.unavailable()}")
    case = Case(5, size, (BF16,) * 3, **METRICS[metric])
    inputs = moved(case.inputs(), place.device)
    results = {}

    def step() -> None:
        results["loss"], results["gradient"], scales = loss_by(cuda, case, inputs)
        cuda.scale_gradient_(results["gradient"], results["loss"].new_full((), 2.0), scales)

    graph = captured(step)
    fresh = replace(case, seed=7).inputs()
    inputs.pred.copy_(fresh.pred)
    for mine, new in zip(inputs.terms, fresh.terms, strict=True):
        mine.copy_(new)
    inputs.scalars.copy_(fresh.scalars)
    for _ in range(3):
        results["gradient"].fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        want_loss, want_gradient = expected(case, fresh)
        assert_close(results["loss"], want_loss, TOLERANCE[F32])
        assert_close(results["gradient"], 2 * want_gradient, TOLERANCE[BF16])


def test_losses_on_several_streams(place: Place) -> None:
    if place.library is not None:
        pytest.skip(f"streams need a GPU: {cuda.unavailable()}")
    cases = [Case(64, 3000, (F32,) * 3, seed=seed) for seed in range(8)]
    inputs = [moved(case.inputs(), place.device) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    losses = []
    for _ in range(20):
        losses = []
        for case, arguments, stream in zip(cases, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                losses.append(loss_by(cuda, case, arguments)[0])
    torch.cuda.synchronize()
    for case, arguments, loss in zip(cases, inputs, losses, strict=True):
        assert_close(loss, expected(case, moved(arguments, torch.device("cpu")))[0], TOLERANCE[F32])
