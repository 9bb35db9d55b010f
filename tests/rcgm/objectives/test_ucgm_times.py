"""UCGM at the ends of the times and on short intervals."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm.derivatives import Central, ForwardMode, OneSided
from rcgm.objectives import UCGM, TeacherEnhancedTarget, Times
from rcgm.transports import VE, VP
from rcgm_kernels import Metric
from tests.support.residuals import edge_cases, read
from tests.support.ucgm_algorithm import CURVED, NULL, batch, plain

EDGES = [0.0, 1e-30, 1e-12, 1e-7, 1e-6, 3e-6, 1e-4, 0.004, 0.5, 0.9999999, 1.0]


@pytest.mark.parametrize("transport", [*CURVED, VE()], ids=lambda transport: type(transport).__name__)
@pytest.mark.parametrize("derivative", [Central(), OneSided(), ForwardMode()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.7, 0.999999, 1.0])
def test_every_time_is_finite_in_float32(ratio, derivative, transport, random_network):
    x, z, t, r = edge_cases(EDGES)
    student = random_network(1, torch.float32)
    for equal in (0, len(EDGES)):
        objective = plain(consistency_ratio=ratio, derivative=derivative, transport=transport, clip=1.0)
        _, R = read(objective, student, x, z, Times(t, r, equal))
        assert R.isfinite().all()
        # the clamp is at 1, and the scale 4 B/sin at most 320 (VE from t = 1 to 0, where B is 80)
        assert R.abs().max() < 400


@pytest.mark.parametrize("ratio", [0.0, 0.7, 1.0])
def test_noise_may_start_with_an_infinite_derivative(ratio, random_network):
    """VP, whose coefficients grow as ``t^(-1/2)``; 6e-8 is the smallest time above 0 that is drawn."""
    t = torch.tensor([0.0, 6e-8, 1e-3, 1.0])
    x, z, _, _ = batch((4, 3))
    for derivative in (Central(), OneSided(), ForwardMode()):
        objective = plain(consistency_ratio=ratio, derivative=derivative, transport=VP(), clip=1.0)
        _, R = read(objective, random_network(1, torch.float32), x.float(), z.float(), Times(t, torch.zeros(4)))
        assert R.isfinite().all()
        # the clamp is at 1; the scale is largest at the smallest time, 8/pi dB/dt = 1.6e3
        assert R.abs().max() < 5e3
        assert ratio == 0 or not R[0].any()


def test_small_intervals_keep_their_scale(random_network):
    """Through the hand-over to the limit at 1e-6 the residual is that of flow matching, times ``8/pi``."""
    t = torch.tensor([0.0, 1e-9, 0.99e-6, 1.01e-6, 1e-5], dtype=torch.float64)
    x, z, _, _ = batch((5, 3))
    student, zero = random_network(1), torch.zeros(5, dtype=torch.float64)
    expected = 8 / math.pi * (student(x, zero, zero).detach() - (z - x))
    for objective in (plain(derivative=ForwardMode()), plain(consistency_ratio=0.5)):
        _, R = read(objective, student, x, z, Times(t, zero))
        # what the limit leaves out is as large as the interval, 1e-5, times a derivative of some tens
        torch.testing.assert_close(R, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_broken_sample_stays_alone(ratio, random_network):
    x, z, t, labels = batch()
    x[4, 1] = math.nan
    objective = UCGM(consistency_ratio=ratio, metric=Metric(), guidance=TeacherEnhancedTarget(2.0))
    _, R = read(
        objective, random_network(1), x, z, Times(t, torch.zeros_like(t)), labels, teacher=random_network(2),
        null_cond=torch.tensor([NULL]),
    )  # fmt: skip
    broken = R.isnan().any(1)
    assert broken[4]
    assert broken.sum() == 1
