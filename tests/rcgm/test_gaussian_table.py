"""Every objective under every transport, with every estimator: its residual vanishes at the exact network.

A difference leaves an error of the order that it promises in its step; forward-mode AD and what needs no derivative
leave nothing but rounding. Steps of 4e-3 and 1e-3: their ratio is 4 at first order and 16 at second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from rcgm.derivatives import Central, Estimator, ForwardMode, OneSided
from rcgm.objectives import OBJECTIVES, RCGM, AlphaFlow, Objective, TwinFlow
from rcgm.objectives.decm import NoiseToNoisyPart
from rcgm.objectives.times import Times
from rcgm.transports import TRANSPORTS, Linear, Transport
from rcgm_kernels import Metric
from tests.support.gaussian import Gaussian, problem, states

COARSE, FINE = 4e-3, 1e-3
PLAIN = {"clip": None, "metric": Metric(), "adaptive": None}
ROUNDING = 1e-7
"""What rounding may leave beside predictions of size 1; coefficients multiply it, so that it is far above 1e-16."""

Make = Callable[[Transport, Estimator | None, float], Objective]


@dataclass(frozen=True)
class Case:
    """An objective with options; ``order`` of its error in the step: 0 exact, None the estimator's."""

    objective: str
    label: str
    make: Make
    order: int | None
    interval: str = "any"
    linear_only: bool = False


def rcgm(order: int, points: str) -> Case:
    def make(transport: Transport, _: Estimator | None, step: float) -> Objective:
        return RCGM(order=order, points=points, dt=step, transport=transport, **PLAIN)

    return Case("rcgm", f"rcgm, order {order}, {points}", make, 1)


def fixed(objective: str, label: str, order: int, interval: str = "any", **arguments) -> Case:
    def make(transport: Transport, _: Estimator | None, step: float) -> Objective:
        given = {name: value(step) if callable(value) else value for name, value in arguments.items()}
        return OBJECTIVES[objective](transport=transport, **PLAIN, **given)

    return Case(objective, label, make, order, interval)


def derived(objective: str, label: str, interval: str = "any", **arguments) -> Case:
    def make(transport: Transport, estimator: Estimator | None, step: float) -> Objective:
        return OBJECTIVES[objective](transport=transport, derivative=estimator, **PLAIN, **arguments)

    return Case(objective, label, make, None, interval)


def relative(order: int) -> Case:
    """alpha-Flow, whose gap is a share of the interval."""

    def make(transport: Transport, _: Estimator | None, step: float) -> Objective:
        return AlphaFlow(alpha=step, order=order, network="target", transport=transport, **PLAIN)

    return Case("alpha_flow", f"alpha_flow, order {order}", make, 1)


@dataclass(frozen=True, kw_only=True)
class Recursion(TwinFlow):
    """TwinFlow without its fakes: there the target is that of one pair, which no network predicts."""

    formulas = Objective.formulas


def recursion(order: int) -> Case:
    def make(transport: Transport, _: Estimator | None, step: float) -> Objective:
        return Recursion(order=order, dt=step, transport=transport, sample_weight=None, **PLAIN)

    return Case("twinflow", f"twinflow, order {order}", make, 1)


def consistency_part(objective: str) -> Case:
    """The consistency part of an anchored objective, with its factors; its other part is ``flow_matching``."""

    def make(transport: Transport, estimator: Estimator | None, step: float) -> Objective:
        return replace(OBJECTIVES[objective](**PLAIN).consistency(), derivative=estimator)

    return Case(objective, f"{objective}, consistency", make, None, "whole", linear_only=True)


def noise_to_noisy_part() -> Case:
    def make(transport: Transport, estimator: Estimator | None, step: float) -> Objective:
        return NoiseToNoisyPart(derivative=estimator, start_weight=0.7, end_weight=1.3, **PLAIN)

    return Case("decm", "decm, noise to noisy", make, None, linear_only=True)


CASES = [
    fixed("flow_matching", "flow_matching", 0, "none"),
    *(rcgm(order, points) for order, points in product((1, 2, 4), ("rollout", "jump"))),
    *(recursion(order) for order in (1, 2)),
    *(relative(order) for order in (1, 2, 4)),
    fixed("ucgm", "ucgm, ratio 0", 0, "none", consistency_ratio=0.0, sample_weight=None),
    fixed("ucgm", "ucgm, ratio 1 - h", 1, "whole", consistency_ratio=lambda step: 1 - step, sample_weight=None),
    derived("ucgm", "ucgm, ratio 1", "whole", sample_weight=None),
    derived("ucgm", "ucgm, ratio 1, any r", sample_weight=None),
    derived("tim", "tim", sample_weight=None),
    derived("mean_flow", "mean_flow"),
    derived("improved_mean_flow", "improved_mean_flow", reduce="mean"),
    derived("scm", "scm", "whole", normalize=None, warmup_steps=0),
    fixed("shortcut", "shortcut", 0),
    fixed("consistency", "consistency", 1, "whole", dt=lambda step: step),
    *(consistency_part(objective) for objective in ("decm", "facm")),
    noise_to_noisy_part(),
]
ESTIMATORS: dict[str, Callable[[float], Estimator]] = {
    "central": Central,
    "one_sided": OneSided,
    "jvp": lambda step: ForwardMode(),
}
ORDERS = {"central": 2, "one_sided": 1, "jvp": 0}


def times_of(case: Case) -> Times:
    """Inside [0, 1], where differences need not turn to one side; the ends are those of the objectives' own tests."""
    generator = torch.Generator().manual_seed(0)
    t = 0.15 + 0.75 * torch.rand(256, generator=generator, dtype=torch.float64)
    share = torch.rand(256, generator=generator, dtype=torch.float64)
    # "whole" ends a little above 0, where forward-mode AD of the exact network under VP divides 0 by 0
    r = {"any": (0.1 + 0.7 * share) * t, "whole": torch.full_like(t, 1e-4), "none": t}[case.interval]
    return Times(t, r, len(t) if case.interval == "none" else 0)


def largest_residual(case: Case, transport: Transport, estimator: Estimator | None, step: float) -> float:
    gaussian = problem(transport)
    times = times_of(case)
    _, data, noise = states(gaussian, times)
    predictions = []

    def student(x, t, r, cond):
        answer = gaussian(x, t, r)
        if torch.is_grad_enabled():
            predictions.append(answer.requires_grad_())
        return answer

    objective = case.make(transport, estimator, step)
    objective(student, data, target=gaussian, noise=noise, times=times).loss.backward()
    (prediction,) = predictions
    return (prediction.grad * prediction.numel() / 2).abs().max().item()


def check_rate(coarse: float, fine: float, order: int) -> None:
    if order == 0:
        assert coarse < ROUNDING
    else:
        assert fine > 0
        # the next term of the error is a step smaller
        assert (COARSE / FINE) ** order == pytest.approx(coarse / fine, rel=0.3)


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_residual_vanishes_at_the_promised_rate(case, name, table):
    transport = TRANSPORTS[name]()
    if case.linear_only and name != "linear":
        pytest.skip("written for the linear transport")
    for estimator, make in ESTIMATORS.items() if case.order is None else [("-", lambda step: None)]:
        order = ORDERS[estimator] if case.order is None else case.order
        coarse, fine = (largest_residual(case, transport, make(step), step) for step in (COARSE, FINE))
        table.append(f"{case.label:<26} {name:<16} {estimator:<10} {coarse:9.2e} {fine:9.2e}  order {order}")
        check_rate(coarse, fine, order)


def test_every_objective_is_in_the_table():
    assert {case.objective for case in CASES} == set(OBJECTIVES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_wrong_network_leaves_a_residual(case, monkeypatch):
    exact = Gaussian.__call__
    monkeypatch.setattr(Gaussian, "__call__", lambda self, x, t, r, cond=None: 1.05 * exact(self, x, t, r))
    assert largest_residual(case, Linear(), Central(FINE), FINE) > 1e-2
