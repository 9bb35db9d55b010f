"""DE-CM's loss and gradient are those of Algorithm 1 (``tests/support/decm_algorithm.py``), and why not as printed."""

from __future__ import annotations

import pytest
import torch

from rcgm.derivatives import Central, ForwardMode
from rcgm.objectives import EnhancedTarget, NormalizedTarget
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support import decm_algorithm
from tests.support.decm_algorithm import (
    ANYWHERE,
    BATCH,
    ENDS,
    NEAR,
    NULL,
    STEP,
    Settings,
    batch,
    column,
    decm,
    published,
)
from tests.support.gaussian import problem
from tests.support.residuals import assert_same_loss
from tests.support.rounding import rounding_bound


def compare(s: Settings, random_network, dropout: float = 0.0, **changes) -> None:
    student, target, teacher = (random_network(seed) for seed in (1, 2, 3))
    x, z, labels = batch()
    guidance = None
    if s.w_cfg is not None:
        network = "teacher" if s.distilled else "target"
        guidance = EnhancedTarget(s.w_cfg - 1, network=network)
        if s.normalized:
            # root mean square here, length in the paper
            guidance = NormalizedTarget(s.w_cfg - 1, network=network, size=s.eta / x.shape[1] ** 0.5)
    objective = decm(
        supervision="teacher" if s.distilled else "data",
        guidance=guidance,
        start_weight=s.lam,
        end_weight=s.gam,
        every=s.freq,
        adaptive=None if s.power is None else AdaptiveWeight(s.power),
        metric=Metric(cosine=s.cosine),
        label_dropout=dropout,
        derivative=Central(STEP) if s.central else ForwardMode(),
        **changes,
    )
    ours = objective(
        student, x, labels, target=target, teacher=teacher, null_cond=torch.tensor([NULL]), noise=z,
        generator=torch.Generator().manual_seed(3), step=s.step,
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    theirs = published(student, target, teacher, x, z, torch.where(dropped, NULL, labels), dropped, s)
    assert_same_loss(ours, theirs, student, divided_by=STEP if s.central else 1.0)


@pytest.mark.parametrize("guidance", [{}, {"w_cfg": 1.75}, {"w_cfg": 1.75, "normalized": True, "eta": 0.6}], ids=str)
@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("distilled", [True, False], ids=["distilled", "from scratch"])
def test_loss_and_gradient(distilled, step, guidance, random_network):
    compare(Settings(distilled, step=step, **guidance), random_network)


@pytest.mark.parametrize(
    "options",
    [
        {"lam": 0.7, "gam": 1.3},
        {"lam": 1.0, "gam": 0.0},
        {"lam": 0.0, "gam": 2.0},
        {"power": None},
        {"power": 1.0, "cosine": 0.0},
        {"freq": 2, "step": 2, "cosine": 0.3},
    ],
    ids=str,
)
def test_options_of_the_loss(options, random_network):
    compare(Settings(**options), random_network)


@pytest.mark.parametrize("distilled", [True, False], ids=["distilled", "from scratch"])
def test_dropped_conditions(distilled, random_network):
    compare(Settings(distilled, w_cfg=2.0, normalized=True, eta=0.5), random_network, dropout=0.4)


def test_central_differences(random_network, monkeypatch):
    # inside, where no difference is one-sided and r moves without leaving [0, t]
    monkeypatch.setattr(decm_algorithm, "ANYWHERE", 0.1 + 0.8 * ANYWHERE)
    monkeypatch.setattr(decm_algorithm, "NEAR", NEAR - 0.01)
    monkeypatch.setattr(decm_algorithm, "ENDS", 0.02 + 0.8 * ENDS)
    compare(Settings(lam=0.7, gam=1.3, central=True), random_network)


def test_equation_15_as_printed_does_not_vanish_at_the_exact_network():
    """With the velocities exchanged, or with that of the straight line at the end, something is left."""
    exact, (x, z, _) = problem(), batch()
    lam, gam = 0.7, 1.3
    t, r = NEAR, ENDS
    x_t = column(t) * z + column(1 - t) * x
    v_t, F = exact.velocity(x_t, t), exact(x_t, t, r)
    landing = x_t - column(t - r) * F
    v_landing = exact.velocity(landing, r)
    line = column(r) * z + column(1 - r) * x
    ours = (column(torch.full_like(t, lam)) * v_t, torch.full_like(t, lam), torch.full_like(r, -gam))
    _, derivative = torch.func.jvp(exact, (x_t, t, r), ours)

    def left(start, end, weight=1.0):
        return ((lam + gam) * F - start - end + column(t - r) * weight * derivative).abs().max()

    assert left(lam * v_t, gam * v_landing) < rounding_bound()
    assert left(gam * v_t, lam * v_landing) > 0.1  # equation 15
    assert left(lam * v_t, gam * v_landing, lam) > 0.1  # Algorithm 1, line 23: the weight twice
    assert left(lam * v_t, gam * exact.velocity(line, r)) > 0.1  # Algorithm 1: the end on the straight line
