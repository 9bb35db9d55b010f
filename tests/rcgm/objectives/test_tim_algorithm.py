"""TiM's loss and gradient are those of the paper's algorithm (``tests/support/tim_algorithm.py``)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rcgm.objectives import Times
from tests.support.residuals import assert_same_loss
from tests.support.tim_algorithm import (
    BATCH,
    EQUAL,
    INTERVALS,
    NULL,
    TABLE,
    Settings,
    batch,
    loss_of_one_sample,
    objective_of,
)


def compare(s: Settings, random_network, dropout: float = 0.0, shape=(BATCH, 3), equal: int = EQUAL) -> None:
    """Loss and gradient of the objective against those of the algorithm."""
    student, target = (random_network(seed, dimensions=math.prod(shape[1:])) for seed in (1, 2))
    x, z, times, labels = batch(shape)
    ours = objective_of(s, label_dropout=dropout)(
        student, x, labels, target=target, null_cond=torch.tensor([NULL]), noise=z,
        times=Times(times.t, times.r, equal), generator=torch.Generator().manual_seed(3),
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    labels = torch.where(dropped, NULL, labels)
    theirs = torch.stack(
        [
            loss_of_one_sample(
                student, target, x[i : i + 1], z[i : i + 1], *INTERVALS[i], labels[i : i + 1], bool(dropped[i]), s
            )
            for i in range(BATCH)
        ]
    ).mean()
    assert_same_loss(ours, theirs, student, divided_by=s.epsilon)


@pytest.mark.parametrize("guidance", [None, (0.75, 1.0, False), (0.4, 0.8, True)], ids=str)
@pytest.mark.parametrize("row", TABLE)
def test_loss_and_gradient(row, guidance, random_network):
    compare(Settings(row, guidance), random_network)


@pytest.mark.parametrize(
    "options",
    [
        {"sigma_d": None},
        {"sigma_d": 0.5},
        {"warp": "identity"},
        {"warp": "odds", "sigma_d": 0.7},
        {"power": 1.0},
        {"power": 2.0, "warp": "odds"},
        {"adaptive": None},
        {"adaptive": (0.75, 1e-2)},
        {"epsilon": 1e-3},
    ],
    ids=str,
)
def test_options_of_the_loss(options, random_network):
    compare(replace(Settings("TiM"), **options), random_network)


@pytest.mark.parametrize("row", ["TiM", "TrigFlow"])
def test_dropped_conditions(row, random_network):
    compare(Settings(row, (0.75, 1.0, False)), random_network, dropout=0.4)


def test_images(random_network):
    compare(Settings("TrigFlow"), random_network, shape=(BATCH, 2, 2, 3))


def test_equal_samples_need_not_be_announced(random_network):
    compare(Settings("TrigFlow"), random_network, equal=0)
