"""FACM against the program of its authors, written down a second time in plain tensors and in the program's time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from rcgm.config import build_objective_from
from rcgm.derivatives import Central, ForwardMode, OneSided
from rcgm.objectives import FACM, MixedTarget, TeacherEnhancedTarget
from rcgm.objectives.anchored import ConsistencyPart
from rcgm.objectives.times import Times
from rcgm.transports import TrigFlow
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support.configurations import parse
from tests.support.gaussian import problem, states
from tests.support.plain import BATCH, Smooth, assert_same, batch
from tests.support.residuals import read
from tests.support.rounding import assert_rounded

# Our times, with both ends; the largest that is guided is 0.875.
T = torch.tensor([0.0, 0.4, 1.0, 0.875, 0.5, 0.25, 0.9, 0.98], dtype=torch.float64)
LABELS, NULL = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), 5
PUBLISHED = {"supervision": "teacher", "guidance": MixedTarget(0.0, t_max=0.875, network="teacher", data=1.75)}


def program(x, z, teacher=None, *, p=0.5, strength=1.75, low=0.125):
    """The loss of the program: its time ``s`` is 0 at noise and 1 at data, its networks point to the data."""

    def loss(student):
        def called(network, state, s, end, labels):
            return -network(state, 1 - s, 1 - end, labels)

        s = 1 - T
        column, end = s[:, None], torch.ones_like(s)
        x_s, v = column * x + (1 - column) * z, x - z
        if teacher is not None:
            with torch.no_grad():
                nothing = torch.where(s < low, LABELS, NULL)
                with_cond, without = (called(teacher, x_s, s, s, labels) for labels in (LABELS, nothing))
                v = without + strength * (with_cond - without)
        flow = called(student, x_s, s, s, LABELS)
        anchor = (flow - v).square().mean(1) + 1 - cosine_similarity(flow, v, dim=1)

        average, derivative = torch.func.jvp(
            lambda state, s: called(student, state, s, end, LABELS), (x_s, s), (v, torch.ones_like(s))
        )
        kept = average.detach()
        g = kept - (v + (1 - column) * derivative.detach())
        target = kept - (1 - column**p) * g.clamp(-1, 1)
        e = (average - target).square().mean(1)
        shortcut = e / (e + 1e-3).sqrt().detach() * torch.cos(s * math.pi / 2)
        return shortcut.mean() + anchor.mean()

    return loss


def call(z):
    return {"null_cond": torch.tensor([NULL]), "noise": z, "times": (T, torch.zeros_like(T))}


@pytest.mark.parametrize("relaxation", [0.5, 3.0])
def test_loss_and_gradient_from_data(relaxation):
    (x, z), student = batch(), Smooth(1)
    objective = FACM(derivative=ForwardMode(), relaxation=relaxation)
    assert_same(objective, program(x, z, p=relaxation), student, x, LABELS, **call(z))


@pytest.mark.parametrize("strength", [1.0, 1.75])
def test_loss_and_gradient_from_a_teacher(strength):
    (x, z), student, teacher = batch(), Smooth(1), Smooth(2)
    guidance = MixedTarget(0.0, t_max=0.875, network="teacher", data=strength)
    objective = FACM(derivative=ForwardMode(), supervision="teacher", guidance=guidance)
    expected = program(x, z, teacher, strength=strength)
    assert_same(objective, expected, student, x, LABELS, teacher=teacher, **call(z))


@pytest.mark.parametrize("estimator", [Central(1e-4), OneSided(1e-5), Central(1e-3, order=4)])
def test_any_estimator_is_near_the_programs_derivative(estimator):
    (x, z), student = batch(), Smooth(1)
    exact, near = (FACM(derivative=choice)(student, x, LABELS, **call(z)).loss for choice in (ForwardMode(), estimator))
    torch.testing.assert_close(near, exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "waves", "evaluations"),
    [
        ({}, 1, 2),  # the derivative
        ({"supervision": "teacher"}, 2, 1 + 2),
        (PUBLISHED, 2, 2 + 2),
        ({"guidance": MixedTarget(0.0, network="student", data=1.75)}, 2, 1 + 2),  # without the one that weighs nothing
        ({"guidance": TeacherEnhancedTarget(0.5)}, 2, 1 + 2),
    ],
)
def test_what_both_parts_ask_is_evaluated_once(options, waves, evaluations):
    (x, z), student, teacher = batch(), Smooth(1), Smooth(2)
    inside = (0.1 + 0.8 * T, torch.zeros_like(T))
    out = FACM(**options)(student, x, LABELS, **{**call(z), "teacher": teacher, "times": inside})
    assert (out.waves, out.evaluations) == (waves, evaluations)
    t, r = out.t.reshape(2, BATCH), out.r.reshape(2, BATCH)
    assert torch.equal(t, inside[0].expand(2, BATCH))
    assert not r[0].any()
    assert torch.equal(r[1], inside[0])


def test_both_parts_vanish_at_the_exact_network():
    gaussian = problem()
    times = Times(torch.linspace(0.2, 0.95, 64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64))
    _, x, z = states(gaussian, times)
    exact = FACM(supervision="teacher", adaptive=None, metric=Metric(), derivative=ForwardMode())
    for network, vanishes in ((gaussian, True), (lambda *point: 1.05 * gaussian(*point[:3]), False)):
        loss = exact(network, x, noise=z, times=times, teacher=gaussian).losses.reshape(2, 64)
        assert bool((loss < 1e-20).all()) if vanishes else bool((loss > 1e-8).all()), loss


def test_the_anchor_has_no_clip():
    """A target far away pulls flow matching with all its length, and the consistency part with that of the clip."""
    (x, z), student = batch(), Smooth(1)
    options = {"adaptive": None, "metric": Metric()}
    near, far = (
        FACM(**options)(student, scale * x, noise=scale * z, times=(T, torch.zeros_like(T))).losses.reshape(2, BATCH)
        for scale in (1, 100)
    )
    assert (far[0] <= 1).all()
    assert (far[1] > 100 * near[1].clamp(max=10)).all()


def test_the_factors_at_both_ends():
    """The whole residual with its whole weight at noise, none at data."""
    (x, z), student = batch(), Smooth(1)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(BATCH // 2)
    plain = FACM(adaptive=None, clip=None, derivative=ForwardMode())
    times = Times(ends, torch.zeros_like(ends))
    consistency = plain(student, x, noise=z, times=times).losses.reshape(2, BATCH)[0]
    assert not consistency[ends == 0].any()
    _, unscaled = read(ConsistencyPart(derivative=ForwardMode()), student, x, z, times)
    assert_rounded(consistency[ends == 1], unscaled[ends == 1].square().mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relaxation": 0.0}, "relaxation must be a finite number > 0, got 0.0"),
        ({"relaxation": math.inf}, "relaxation must be a finite number > 0, got inf"),
        ({"transport": TrigFlow()}, "transport must be linear for facm, got TrigFlow"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        FACM(**options)


def test_a_configuration_names_it():
    guidance = "{name: tim, scale: 0, data: 1.75, t_min: 0, t_max: 0.875, network: student}"
    found = build_objective_from(
        parse(f"objective={{name: facm, relaxation: 0.25, guidance: {guidance}}}", "data.labels=true")
    )
    assert found == FACM(relaxation=0.25, guidance=MixedTarget(0.0, data=1.75, t_max=0.875, network="student"))
    assert found.adaptive == AdaptiveWeight(0.5, 1e-3, of="loss")
