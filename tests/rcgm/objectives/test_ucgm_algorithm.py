"""UCGM's loss and gradient are those of the paper's algorithm (``tests/support/ucgm_algorithm.py``)."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm.objectives import UCGM, Times
from rcgm_kernels import Metric
from tests.support.residuals import assert_same_loss, read
from tests.support.rounding import rounding_bound
from tests.support.ucgm_algorithm import (
    BATCH,
    HALF_PI,
    NULL,
    TIMES,
    TRANSPORTS,
    Settings,
    batch,
    loss_of_one_sample,
    objective_of,
)


def compare(s: Settings, random_network, dropout: float = 0.0, shape=(BATCH, 3), **changes) -> None:
    """Loss and gradient of the objective against those of the algorithm."""
    student, target, teacher = (random_network(seed, dimensions=math.prod(shape[1:])) for seed in (1, 2, 3))
    x, z, t, labels = batch(shape)
    objective = objective_of(s, label_dropout=dropout, **changes)
    times = Times(t, t, BATCH) if s.ratio == 0 else Times(t, torch.zeros_like(t))
    ours = objective(
        student, x, labels, target=target, teacher=teacher, null_cond=torch.tensor([NULL]), noise=z, times=times,
        generator=torch.Generator().manual_seed(3),
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    labels = torch.where(dropped, NULL, labels)
    theirs = torch.stack(
        [
            loss_of_one_sample(
                student, target, teacher, x[i : i + 1], z[i : i + 1], TIMES[i], labels[i : i + 1], bool(dropped[i]), s
            )
            for i in range(BATCH)
        ]
    ).mean()
    # the shortest step: of the central difference, or of ratio 0.99 at the smallest time
    step = min(s.epsilon, (1 - s.ratio) * min(TIMES)) if 0 < s.ratio < 1 else s.epsilon
    assert_same_loss(ours, theirs, student, divided_by=step)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("guided_inputs", [False, True], ids=["data inputs", "guided inputs"])
@pytest.mark.parametrize("zeta", [None, 2.0], ids=["plain", "enhanced"])
@pytest.mark.parametrize("ratio", [0.3, 0.99, 1.0])
def test_consistency_training(ratio, zeta, guided_inputs, transport, random_network):
    compare(Settings(ratio, transport, zeta, guided_inputs), random_network)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("zeta", [None, 0.44], ids=["plain", "enhanced"])
@pytest.mark.parametrize("cosine", [0.0, 1.0])
def test_multi_step_training(zeta, cosine, transport, random_network):
    compare(Settings(0.0, transport, zeta, c=0.0, cosine=cosine, weighted=False), random_network)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_dropped_conditions(ratio, random_network):
    compare(Settings(ratio, "trigflow", 0.5), random_network, dropout=0.4)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize(
    "options",
    [{"c": 0.1}, {"cosine": 0.7}, {"weighted": False}, {"clip": 0.2}, {"clip": 1e6}, {"epsilon": 1e-3}],
    ids=str,
)
def test_options_of_the_loss(options, ratio, random_network):
    compare(Settings(ratio, "triglinear", **options), random_network)


def test_images(random_network):
    compare(Settings(1.0, zeta=1.3), random_network, shape=(BATCH, 2, 2, 3))


def test_both_sides_of_the_clamp_are_taken(random_network):
    x, z, t, labels = batch()
    objective = UCGM(metric=Metric(), sample_weight=None)
    _, R = read(objective, random_network(1), x, z, Times(t, torch.zeros_like(t)), labels)
    at_the_bound = (R.abs() - (4 * t / torch.sin(HALF_PI * t))[:, None]).abs() < rounding_bound(size=8)
    assert 0 < at_the_bound.double().mean() < 1
