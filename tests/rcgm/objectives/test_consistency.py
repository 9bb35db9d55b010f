"""Consistency models against their algorithms (Song et al. 2023; Song and Dhariwal 2023), in plain tensors."""

from __future__ import annotations

import pytest
import torch

from rcgm.objectives import Consistency
from rcgm.objectives.times import Times
from rcgm_kernels import Metric
from tests.support.plain import Smooth, assert_same, batch

T = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.1, 0.05, 0.72, 0.013], dtype=torch.float64)


def algorithm(x, z, dt, *, minus=None, teacher=None, clip=None, huber=None):
    """``f(x_t, t) = x_t - t F(x_t, t, 0)`` agrees at ``x_t`` and a small step away, in units of the prediction.

    ``d(f, f-)`` of the papers with the weight ``1/dt`` and the gradient to ``F`` that a regression on the same target
    has: ``F - sg(F - (f- - f)/dt)``. A step that would pass 0 ends there, where ``f`` is the identity.
    """

    def loss(network):
        f_minus = network if minus is None else minus
        t, before = T[:, None], (T - dt).clamp(min=0)[:, None]
        x_t = (1 - t) * x + t * z
        with torch.no_grad():
            v = z - x if teacher is None else teacher(x_t, T, T)
            x_before = x_t - (t - before) * v
            ahead = x_t - t * network(x_t, T, torch.zeros_like(T))
            behind = x_before - before * f_minus(x_before, before[:, 0], torch.zeros_like(T))
            residual = (behind - ahead) / (t - before)
            residual = residual if clip is None else residual.clamp(-clip, clip)
        prediction = network(x_t, T, torch.zeros_like(T))
        squared = (prediction - (prediction.detach() - residual)).square().mean(1)
        return (squared if huber is None else (squared + huber**2).sqrt() - huber).mean()

    return loss


@pytest.mark.parametrize("options", [{"clip": None}, {"clip": 0.7}, {"metric": Metric("pseudo_huber", c=0.3)}], ids=str)
def test_training_is_that_of_the_algorithm(options):
    (x, z), student = batch(), Smooth(1)
    objective = Consistency(dt=0.02, **{"clip": None, **options})
    expected = algorithm(x, z, 0.02, clip=options.get("clip"), huber=0.3 if "metric" in options else None)
    assert_same(objective, expected, student, x, noise=z, times=Times(T, torch.zeros_like(T)))


def test_the_first_paper_takes_the_average():
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    objective = Consistency(dt=0.02, clip=None, network="target")
    expected = algorithm(x, z, 0.02, minus=ema)
    assert_same(objective, expected, student, x, target=ema, noise=z, times=Times(T, torch.zeros_like(T)))


def test_distillation_steps_along_the_teacher():
    (x, z), student, teacher = batch(), Smooth(1), Smooth(3)
    objective = Consistency(dt=0.02, clip=None, supervision="teacher")
    expected = algorithm(x, z, 0.02, teacher=teacher)
    assert_same(objective, expected, student, x, teacher=teacher, noise=z, times=Times(T, torch.zeros_like(T)))


def test_the_gap_shrinks_by_the_curriculum():
    objective = Consistency(segments=(10, 1280), curriculum_steps=800)
    assert [round(1 / objective.gap(step)) for step in (0, 99, 100, 200, 699, 700, 5000)] == [
        10, 10, 20, 40, 640, 1280, 1280,
    ]  # fmt: skip
    assert Consistency(dt=0.03).gap(10**6) == 0.03
    (x, z), student = batch(), Smooth(1)
    objective = Consistency(segments=(10, 1280), curriculum_steps=800, clip=None)
    times = Times(T, torch.zeros_like(T))
    assert_same(objective, algorithm(x, z, 1 / 20), student, x, noise=z, times=times, step=150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 2}, "order of a consistency model must be 1, got 2"),
        ({"segments": (20, 10)}, r"segments must be two growing numbers from 1 to 1000000, got \(20, 10\)"),
        ({"curriculum_steps": 0}, "curriculum_steps must be at least 1, got 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Consistency(**options)
