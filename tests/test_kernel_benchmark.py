"""The benchmark of the kernels runs, small, and measures what training calls."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import (
    environment,
    every_kernel,
    kernel_cases,
    kernels,
    loss_cases,
)
from rcgm.config import build_objective_from, load_config
from tests.support.implementations import threads

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"


def test_every_kernel_runs(capsys: pytest.CaptureFixture):
    every_kernel.main()
    assert "every kernel ran" in capsys.readouterr().out


@pytest.mark.parametrize(
    "make",
    [loss_cases.loss_case, loss_cases.residual_case, kernel_cases.interpolate_case, kernel_cases.advance_case],
)
def test_sides_of_a_case_are_timed(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_cases, "CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    (row,) = kernels.measure(make((4, 4, 16, 16), torch.bfloat16, CPU), 1, CPU)
    assert row["backend"] == "cpu"
    assert row["times_floor"] * row["share_of_copy"] == pytest.approx(1)
    assert row["large_allocations"] == (0 if make is kernel_cases.advance_case else 1)
    assert (row["published_over_fused"] is not None) == (make is loss_cases.loss_case)


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
    ours = functools.partial(loss_cases.trained_loss, weight=weight)
    for loss in (ours, loss_cases.eager_loss, loss_cases.published_loss):
        pred.requires_grad_().grad = None
        value = loss(pred, segments, velocity, times)
        value.backward()
        outcomes.append((value.detach().double(), pred.grad.double()))
    for other in outcomes[1:]:
        torch.testing.assert_close(outcomes[0], other, rtol=2e-2 if dtype != torch.float32 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("name", loss_cases.FORMS)
def test_sides_of_the_residual_form_agree(name):
    form = loss_cases.FORMS[name]
    torch.manual_seed(0)
    call = loss_cases.Combined.drawn(form, (5, 4, 3, 3), torch.float32, CPU)
    outcomes = []
    for loss in (loss_cases.trained_residual_loss, loss_cases.eager_residual_loss):
        call.pred.grad = None
        value = loss(call, form)
        value.backward()
        outcomes.append((value.detach(), call.pred.grad))
    torch.testing.assert_close(*outcomes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", loss_cases.METRICS)
def test_sides_of_the_metrics_agree(name):
    metric = loss_cases.METRICS[name]
    generator = torch.Generator().manual_seed(0)
    pred, velocity, *segments = (torch.randn(3, 4, 5, generator=generator) for _ in range(4))
    times = torch.tensor([[0.9, 0.5, 0.2]]) * torch.tensor([1.0, 0.9, 0.4, 0.0])[:, None]
    ours = functools.partial(loss_cases.trained_loss, weight=torch.full((3,), 1 / 3, dtype=torch.float64))
    outcomes = []
    for loss in (ours, loss_cases.eager_loss):
        pred.requires_grad_().grad = None
        value = loss(pred, segments, velocity, times, metric=metric)
        value.backward()
        outcomes.append((value.detach(), pred.grad))
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
        patch.setattr(loss_cases, "backends", lambda device: ("cpu",))
        small = (6, 4, 4, 4)
        patch.setattr(kernels, "loss_case", lambda _, dtype, *rest: loss_cases.loss_case(small, torch.float32, *rest))
        patch.setattr(
            kernels, "residual_case", lambda _, dtype, *rest: loss_cases.residual_case(small, torch.float32, *rest)
        )
        for name in ("interpolate_case", "advance_case", "ema_case"):
            patch.setattr(kernels, name, lambda *_, **__: None)
        made = [make() for make in kernels.cases(CPU, full=False)]
        return set().union(*(calls_of(case.variants["cpu"][0]) for case in made if case is not None))


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
    loss_cases.published_loss(pred, [pred.detach()], pred.detach(), times).backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_full_benchmark_has_every_size_order_and_format(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(kernels, "loss_case", lambda shape, dtype, device, *rest: made.append((shape, dtype, *rest)))
    forms = set()
    monkeypatch.setattr(kernels, "residual_case", lambda shape, dtype, device, name: forms.add((shape, dtype, name)))
    for name in ("interpolate_case", "advance_case", "ema_case"):
        monkeypatch.setattr(kernels, name, lambda *_, **__: None)
    for make in kernels.cases(torch.device("cuda"), full=True):
        make()
    assert {name for _, _, name in forms} == set(loss_cases.FORMS)
    assert {order for _, _, order, *_ in made} == set(range(9))
    assert {name for *_, name in made if isinstance(name, str)} == set(loss_cases.METRICS)
    assert {dtype for _, dtype, *_ in made} == {torch.bfloat16, torch.float16, torch.float32}
    assert {(256, 2), (256, 4, 32, 32), (64, 16, 128, 128), (4, 16, 21, 60, 104)} <= {shape for shape, *_ in made}
    assert len(made) == len(set(made))


def test_the_kernel_benchmark_runs_small(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    monkeypatch.setattr(kernel_cases, "CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    with threads(1):  # the benchmark changes the number
        kernels.main(["--rounds", "1", "--first", "1", "--threads", "1", "2", "--name", "trial"])
    rows = json.loads((tmp_path / "trial.json").read_text())["rows"]
    assert [row["threads"] for row in rows] == [1, 2]
    assert all(row["operation"].startswith("fused_loss") for row in rows)
