"""The benchmarks run, small."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import (
    environment,
    every_kernel,
    float8_targets,
    kernel_cases,
    kernels,
    moons,
    objectives,
    profile_step,
    target_formats,
)
from benchmarks.timing import in_turn, large_allocations
from rcgm.config import build_objective_from, load_config

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"


def test_every_kernel_runs(capsys: pytest.CaptureFixture):
    every_kernel.main()
    assert "every kernel ran" in capsys.readouterr().out


@pytest.mark.parametrize(
    "make",
    [kernel_cases.loss_case, kernel_cases.residual_case, kernel_cases.interpolate_case, kernel_cases.advance_case],
)
def test_sides_of_a_case_are_timed(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_cases, "CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    (row,) = kernels.measure(make((4, 4, 16, 16), torch.bfloat16, CPU), 1, CPU)
    assert row["backend"] == "cpu"
    assert row["times_floor"] * row["share_of_copy"] == pytest.approx(1)
    assert row["large_allocations"] == (0 if make is kernel_cases.advance_case else 1)
    assert (row["published_over_fused"] is not None) == (make is kernel_cases.loss_case)


@pytest.mark.parametrize("order", [0, 1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sides_of_the_loss_agree(order, dtype):
    generator = torch.Generator().manual_seed(0)
    pred, velocity, *segments = (torch.randn(3, 5, generator=generator).to(dtype) for _ in range(order + 2))
    t = torch.tensor([0.9, 0.5, 0.2])
    start = t - 0.01 if order else torch.zeros_like(t)
    times = torch.cat([t[None], start * torch.linspace(1, 0, order + 1)[:, None]])
    outcomes = []
    weight = torch.full((3,), 1 / 3, dtype=torch.float64)
    ours = functools.partial(kernel_cases.trained_loss, weight=weight)
    for loss in (ours, kernel_cases.eager_loss, kernel_cases.published_loss):
        pred.requires_grad_().grad = None
        value = loss(pred, segments, velocity, times)
        value.backward()
        outcomes.append((value.detach().double(), pred.grad.double()))
    for other in outcomes[1:]:
        torch.testing.assert_close(outcomes[0], other, rtol=2e-2 if dtype != torch.float32 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("name", kernel_cases.FORMS)
def test_sides_of_the_residual_form_agree(name):
    form = kernel_cases.FORMS[name]
    torch.manual_seed(0)
    call = kernel_cases.Combined.drawn(form, (5, 4, 3, 3), torch.float32, CPU)
    outcomes = []
    for loss in (kernel_cases.trained_residual_loss, kernel_cases.eager_residual_loss):
        call.pred.grad = None
        value = loss(call, form)
        value.backward()
        outcomes.append((value.detach(), call.pred.grad))
    torch.testing.assert_close(*outcomes, rtol=1e-4, atol=1e-6)


class Recorder(TorchDispatchMode):
    """The calls of our operations: number formats and number of the tensors, and all options but the backend."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = str(function)
        if name.startswith("rcgm_kernels."):
            self.calls.append((name, *map(self._described, arguments[:-1])))
        return function(*arguments, **(keywords or {}))

    @staticmethod
    def _described(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), value.shape[0] if value.ndim == 2 else None
        return len(value) if isinstance(value, list) else value


class Channelwise(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x, t, r, cond=None):
        return x * self.weight[:, None, None] + (t - r)[:, None, None, None]


def calls_of(work: Callable[[], object]) -> set[tuple]:
    with Recorder() as recorder:
        work()
    return set(recorder.calls)


@pytest.fixture(scope="module")
def measured() -> set[tuple]:
    """The calls of the losses that the benchmark of this machine's kind measures, at a small size in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_cases, "CACHE_BYTES", 0)
        patch.setattr(kernel_cases, "backends", lambda device: ("cpu",))
        small = (6, 4, 4, 4)
        patch.setattr(kernels, "loss_case", lambda _, dtype, *rest: kernel_cases.loss_case(small, torch.float32, *rest))
        patch.setattr(
            kernels, "residual_case", lambda _, dtype, *rest: kernel_cases.residual_case(small, torch.float32, *rest)
        )
        for name in ("interpolate_case", "advance_case", "ema_case"):
            patch.setattr(kernels, name, lambda *_, **__: None)
        made = [make() for make in kernels.cases(CPU, full=False)]
        return set().union(*(calls_of(case.sides["cpu"][0]) for case in made if case is not None))


TRAINED = [
    ("moons", {"order": 0}),
    ("moons", {"order": 1}),
    ("moons", {"order": 2}),
    ("moons", {"order": 8}),
    ("imagenet256_sd_vae", {}),
    ("imagenet256_mean_flow_b4", {}),
    ("imagenet256_mean_flow_xl2", {}),
    ("imagenet256_tim", {}),
    ("imagenet256_ucgm", {}),
    ("imagenet256_ucgm_tuned", {}),
]


@pytest.mark.parametrize(("name", "changed"), TRAINED, ids=[f"{name} {changed or ''}" for name, changed in TRAINED])
def test_what_a_training_step_calls_is_measured(measured, name, changed):
    words = [f"objective.{key}={value}" for key, value in changed.items()]
    objective = build_objective_from(load_config(CONFIGS / f"{name}.yaml", words))
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(6, 4, 4, 4, generator=generator), torch.zeros(6, dtype=torch.long)

    def step() -> None:
        networks = {key: Channelwise() for key in ("student", "target", "teacher")}
        objective(x=x, cond=labels, null_cond=labels[:1], generator=generator, **networks).loss.backward()

    losses = {call for call in calls_of(step) if call[0].split(".")[1] in ("residual_loss", "scale_gradient_")}
    assert len(losses) == 2
    assert losses <= measured


def test_the_published_loop_leaves_the_generator_as_it_was():
    state = torch.get_rng_state()
    pred = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    times = torch.tensor([[0.9, 0.5], [0.8, 0.4], [0.0, 0.0]])
    kernel_cases.published_loss(pred, [pred.detach()], pred.detach(), times).backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_full_benchmark_has_every_size_order_and_format(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(kernels, "loss_case", lambda shape, dtype, device, order: made.append((shape, dtype, order)))
    forms = set()
    monkeypatch.setattr(kernels, "residual_case", lambda shape, dtype, device, name: forms.add((shape, dtype, name)))
    for name in ("interpolate_case", "advance_case", "ema_case"):
        monkeypatch.setattr(kernels, name, lambda *_, **__: None)
    for make in kernels.cases(torch.device("cuda"), full=True):
        make()
    assert {name for _, _, name in forms} == set(kernel_cases.FORMS)
    assert {order for _, _, order in made} == set(range(9))
    assert {dtype for _, dtype, _ in made} == {torch.bfloat16, torch.float16, torch.float32}
    assert {(256, 2), (256, 4, 32, 32), (64, 16, 128, 128), (4, 16, 21, 60, 104)} <= {shape for shape, _, _ in made}
    assert len(made) == len(set(made))


def test_the_kernel_benchmark_runs_small(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    monkeypatch.setattr(kernel_cases, "CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    kernels.main(["--rounds", "1", "--first", "1", "--name", "trial"])
    (row,) = json.loads((tmp_path / "trial.json").read_text())["rows"]
    assert row["operation"].startswith("fused_loss")


def test_in_turn_goes_round():
    seen: list[int] = []
    work = in_turn([lambda n=n: seen.append(n) for n in range(3)])
    for _ in range(6):
        work()
    assert sorted(seen[:3]) == [0, 1, 2]
    assert seen[:3] == seen[3:]


def test_large_allocations_are_counted():
    keep = []
    assert large_allocations(lambda: keep.append(torch.empty(1000)), 4000, CPU) == 1
    assert large_allocations(lambda: keep.append(torch.empty(900)), 4000, CPU) == 0
    assert large_allocations(lambda: keep.extend(torch.empty(2, 1000) for _ in range(3)), 4000, CPU) == 3


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
    teacher = objectives.train_teacher(task, 0.01)
    for entry in objectives.entries(task):
        row = objectives.run((task, entry, 0.01, teacher if entry.distilled else None))
        assert row["steps"] >= 1
        assert {"1", "2", "4"} <= set(row["quality"])
        assert objectives.line(row).startswith(entry.name)


def test_rows_measured_again_take_the_place_of_the_earlier():
    def row(task: str, name: str, value: int) -> dict:
        return {"task": task, "name": name, "value": value}

    earlier = {"seconds": {"digits": 5, "two_moons": 2}, "rows": [row("digits", "a", 1), row("digits", "b", 1)]}
    result = objectives.continued(earlier, {"digits": 5})
    for new in (row("digits", "c", 2), row("digits", "a", 2), row("two_moons", "a", 2)):
        objectives.put(result["rows"], new)
    assert result["seconds"] == earlier["seconds"]
    assert result["rows"] == [
        row("digits", "a", 2),
        row("digits", "b", 1),
        row("digits", "c", 2),
        row("two_moons", "a", 2),
    ]
    with pytest.raises(ValueError, match="seconds on digits must be those of the result file, 5, got 6"):
        objectives.continued(earlier, {"digits": 6})


def test_a_row_that_diverges_is_printed_as_that(monkeypatch: pytest.MonkeyPatch):
    small = replace(objectives.TASKS["two_moons"], batch=8, count=20)
    monkeypatch.setitem(objectives.TASKS, "two_moons", small)
    row = objectives.run(("two_moons", objectives.Entry("wild", "flow_matching", lr=1e30), 0.05, None))
    assert set(row["quality"].values()) == {None}
    assert "1: diverged" in objectives.line(row)


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
