"""The benchmarks run, small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    environment,
    float8_targets,
    moons,
    objectives,
    orders,
    profile_step,
    target_formats,
)
from benchmarks.flow_matching_clock import FlowMatchingClock
from benchmarks.order_tables import Column, cells_of, orders_table
from benchmarks.plots import plot_orders
from benchmarks.timing import in_turn, large_allocations, medians, spread
from benchmarks.training import Training

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"


def test_in_turn_goes_round():
    seen: list[int] = []
    work = in_turn([lambda n=n: seen.append(n) for n in range(3)])
    for _ in range(6):
        work()
    assert sorted(seen[:3]) == [0, 1, 2]
    assert seen[:3] == seen[3:]


def test_spread_is_the_width_of_the_middle_half():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert spread([3.0, 3.0, 3.0]) == spread([3.0]) == 0.0


def test_the_gpu_is_busy_until_all_calls_are_in_its_queue(monkeypatch: pytest.MonkeyPatch):
    seen = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            seen.append("event")

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: object) -> float:
            return 6.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: seen.append("busy") if cycles > 0 else None)
    work = {"a": lambda: seen.append("a")}
    found = medians(work, rounds=2, calls=3, device=torch.device("cuda"))
    assert found == {"a": pytest.approx(2e-3)}
    assert seen == ["a", "synchronize", *"aaa", *2 * ["busy", "event", *"aaa", "event"]]


def test_large_allocations_are_counted():
    keep = []
    assert large_allocations(lambda: keep.append(torch.empty(1000)), 4000) == 1
    assert large_allocations(lambda: keep.append(torch.empty(900)), 4000) == 0
    assert large_allocations(lambda: keep.extend(torch.empty(2, 1000) for _ in range(3)), 4000) == 3


def test_moons_trains_a_cell():
    row = moons.train(moons.Run(order=1, decay=0.9, steps=2))
    assert set(row["mmd"]) == {"1", "2", "4"}
    assert all(value > 0 for value in row["mmd"].values())


def test_results_are_written_whole(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    path = environment.write("trial", {"environment": environment.describe(CPU)})
    assert json.loads(path.read_text())["environment"]["torch"] == torch.__version__
    assert [entry.name for entry in tmp_path.iterdir()] == ["trial.json"]


@pytest.mark.parametrize("task", objectives.TASKS)
def test_every_objective_trains_and_is_measured(task, monkeypatch: pytest.MonkeyPatch):
    small = replace(objectives.TASKS[task], batch=8, count=20)
    monkeypatch.setitem(objectives.TASKS, task, small)
    teacher = objectives.train_teacher(task, 1, 2)
    for entry in objectives.entries(task):
        row = objectives.run((task, entry, 1, 1, teacher if entry.tuned else None))
        assert row["steps"] == 16 and row["seed"] == 1  # the clock is first read after so many
        assert row["time_of_step"] > 0
        assert {"1", "2", "4"} <= set(row["quality"])
        assert objectives.line(row).startswith(entry.name)


def test_a_training_lasts_as_long_as_flow_matching_would():
    """Of a method that makes more forwards, fewer steps fit into the same time."""
    task = replace(objectives.TASKS["two_moons"], batch=64)
    clock, training = FlowMatchingClock(task), Training(task, "rcgm", {"order": 4})
    while clock.read(training) < 200:
        training.step()
    trained = training.trained()
    assert trained.costs["steps"] == training.number and trained.costs["evaluations"] == 4
    assert 16 <= training.number < 200


def test_rows_measured_again_take_the_place_of_the_earlier():
    def row(task: str, name: str, value: int) -> dict:
        return {"task": task, "name": name, "seed": 0, "value": value}

    earlier = {"budget": 5, "rows": [row("digits", "tim", 1), row("two_moons", "tim", 1)]}
    rows = objectives.known_rows(earlier, 5)
    for new in (row("digits", "tim", 2), row("digits", "flow_matching", 2), row("two_moons", "gone", 2)):
        objectives.put(rows, new)
    rows.sort(key=objectives.place)
    assert rows == [
        row("digits", "flow_matching", 2),
        row("digits", "tim", 2),
        row("two_moons", "tim", 1),
        row("two_moons", "gone", 2),
    ]
    assert objectives.known_rows(None, 5) == []
    with pytest.raises(ValueError, match="budget must be that of the result file, 5, got 6"):
        objectives.known_rows(earlier, 6)


def test_a_row_that_diverges_is_printed_as_that(monkeypatch: pytest.MonkeyPatch):
    small = replace(objectives.TASKS["two_moons"], batch=8, count=20)
    monkeypatch.setitem(objectives.TASKS, "two_moons", small)
    row = objectives.run(("two_moons", objectives.Entry("wild", "flow_matching", lr=1e30), 0, 1, None))
    assert set(row["quality"].values()) == {None}
    assert "1: diverged" in objectives.line(row)


def test_orders_against_decays(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(objectives.TASKS, "digits", replace(objectives.TASKS["digits"], batch=8, count=20))
    some = [(0, Column(0.0)), (8, Column(0.99)), (2, Column(0.99, 0.1))]
    rows = [orders.run((cell, seed, 1)) for cell in some for seed in (0, 1)]
    assert all(set(row["quality"]) == {"1", "2"} and row["quality"]["1"] > 0 for row in rows)
    rows[0]["quality"] = {"1": None, "2": None}
    found = {"environment": environment.describe(CPU), "steps": 1, "rows": rows}
    cells = cells_of(found)
    assert cells[some[0]] is None and cells[1, Column(0.9)] == []
    assert len(cells[some[1]]) == len(cells[some[2]]) == 2 and (0, Column(0.99, 0.1)) not in cells
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    environment.write("orders", found)
    table = orders_table()
    assert "diverges" in table and "not trained" in table and " ± " in table and "2 seeds" in table
    assert table.splitlines()[2].endswith("|  |  |")  # order 0 has no first gap
    plot_orders(found, tmp_path / "orders.png")
    assert (tmp_path / "orders.png").stat().st_size > 1000


@pytest.mark.parametrize("method", target_formats.METHODS)
def test_target_formats_train(method, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target_formats, "TASK", replace(target_formats.TASK, batch=8, count=20))
    assert target_formats.run((method, "float16", 0, 2))["frechet_distance"] > 0


def test_a_step_is_profiled(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    profile_step.main(["--batch", "1", "--trace", str(tmp_path / "trace.json")])
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["waits"] is found["device_ms"] is None or torch.cuda.is_available()
    assert 0 < sum(row["share"] for row in found["operations"]) <= 1.001
    assert any("addmm" in row["name"] for row in found["operations"]) or torch.cuda.is_available()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_float8_rounds_each_row_to_a_sixteenth_of_an_element():
    x = (
        torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 1e4, 0.0, 1.0])[:, None]
    )
    rounded = float8_targets.rounded_to_float8(x)
    assert ((rounded - x).abs() <= x.abs() / 16 + x.abs().amax(1, keepdim=True) * 2**-17).all()
    assert not torch.equal(rounded[1], x[1])
    assert not rounded[3].any()


def test_layers_in_float8_are_those_that_were_asked_for():
    network = float8_targets.random_problem("low").network
    blocks = float8_targets.in_float8(network, float8_targets.is_of_block)
    every = float8_targets.in_float8(network, float8_targets.everywhere)
    kinds = [
        sum(isinstance(module, kind) for module in made.modules())
        for made in (network, blocks, every)
        for kind in (torch.nn.Linear, float8_targets.RoundedLinear)
    ]
    assert kinds == [67, 0, 19, 48, 0, 67]
    layer, x = network.layers[0]["qkv"], torch.randn(3, 384, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = blocks.layers[0]["qkv"](x)
    assert rough.dtype == torch.bfloat16
    exact = layer(x)
    assert 0.01 < (rough.float() - exact).norm() / exact.norm() < 0.06
