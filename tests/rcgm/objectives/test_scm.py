"""sCM against its algorithm (Lu and Song 2024, algorithm 1), in plain tensors and in the paper's angle."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm.derivatives import ForwardMode
from rcgm.objectives import SCM, InverseTangentWeight
from rcgm.objectives.times import Times
from rcgm.transports import Linear
from tests.support.plain import Smooth, assert_same, batch
from tests.support.rounding import assert_rounded

T = torch.tensor([0.95, 0.9, 0.5, 0.3, 0.1, 0.05, 0.72, 1.0], dtype=torch.float64)
TIMES = Times(T, torch.zeros_like(T))


def algorithm(x, z, *, warm=1.0, normalize=0.1, teacher=None, weight=None):
    """The angle ``a`` runs from 0 to pi/2; ``F(x_t, a)`` is the network at ``t = 2 a/pi``; sigma_d = 1."""

    def loss(network):
        angle = math.pi / 2 * T
        a = angle[:, None]

        def predict(x_t, angle):
            return network(x_t, 2 / math.pi * angle, torch.zeros_like(T))

        x_t = torch.cos(a) * x + torch.sin(a) * z
        with torch.no_grad():
            dxdt = torch.cos(a) * z - torch.sin(a) * x if teacher is None else teacher(x_t, T, T)
        minus, derivative = torch.func.jvp(predict, (x_t, angle), (dxdt, torch.ones_like(angle)))
        g = -(torch.cos(a) ** 2) * (minus - dxdt) - warm * torch.cos(a) * torch.sin(a) * (x_t + derivative)
        g = g.detach() if normalize is None else (g / (g.norm(dim=1, keepdim=True) + normalize)).detach()
        prediction = predict(x_t, angle)
        losses = (prediction - minus.detach() - g).square().mean(1)
        return (losses if weight is None else weight(T) * losses).mean()

    return loss


def objective(**options):
    return SCM(derivative=ForwardMode(), **{"warmup_steps": 0, **options})


@pytest.mark.parametrize("normalize", [0.1, None])
def test_training_is_that_of_the_algorithm(normalize):
    (x, z), student = batch(), Smooth(1)
    expected = algorithm(x, z, normalize=normalize)
    assert_same(objective(normalize=normalize), expected, student, x, noise=z, times=TIMES)


@pytest.mark.parametrize(("step", "warm"), [(0, 0.0), (25, 0.25), (100, 1.0), (1000, 1.0)])
def test_the_tangent_is_warmed_up(step, warm):
    (x, z), student = batch(), Smooth(1)
    assert_same(objective(warmup_steps=100), algorithm(x, z, warm=warm), student, x, noise=z, times=TIMES, step=step)


def test_distillation_takes_the_teachers_velocity():
    (x, z), student, teacher = batch(), Smooth(1), Smooth(2)
    expected = algorithm(x, z, teacher=teacher)
    assert_same(objective(supervision="teacher"), expected, student, x, teacher=teacher, noise=z, times=TIMES)


def test_the_prior_weight():
    (x, z), student = batch(), Smooth(1)
    expected = algorithm(x, z, weight=lambda t: (1 / torch.tan(math.pi / 2 * t)).clamp(0, 100))
    assert_same(objective(sample_weight=InverseTangentWeight()), expected, student, x, noise=z, times=TIMES)


def test_the_learned_weight_has_both_gradients():
    (x, z), student = batch(), Smooth(1)
    learning = objective(weighting="learned")
    weight = learning.state()["weight"].double()
    with torch.no_grad():
        weight.linear.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    # the student's is that of the weight as a constant
    constant = weight(T).detach()
    expected = algorithm(x, z, weight=lambda t: constant.exp())
    assert_same(learning, lambda network: expected(network) - constant.mean(), student, x, noise=z, times=TIMES)
    # the weight's is that of exp(u) m - u with m as a constant
    losses = []
    for number in range(len(T)):
        alone = torch.zeros_like(T)
        alone[number] = len(T)
        losses.append(algorithm(x, z, weight=lambda t, alone=alone: alone)(student).detach())
    weight.zero_grad()
    learning(student, x, noise=z, times=TIMES).loss.backward()
    found = weight.linear.weight.grad.clone()
    weight.zero_grad()
    u = weight(T)
    (u.exp() * torch.stack(losses) - u).mean().backward()
    assert_rounded(found, weight.linear.weight.grad)


def test_a_sample_that_overflowed_teaches_no_weight():
    (x, z), student = batch(), Smooth(1)
    learning = SCM(weighting="learned", warmup_steps=0, target_dtype="float16")
    student, x, z, t = student.float(), x.float(), z.float(), T.float()
    weight = learning.state()["weight"].linear.weight

    def gradient(rows):
        weight.grad = None
        noise = z.clone()
        noise[rows] = 1e6  # beyond float16
        learning(student, x, noise=noise, times=Times(t, torch.zeros_like(t))).loss.backward()
        return weight.grad.clone()

    found, whole = gradient([2]), gradient([])
    weight.grad = None
    assert found.isfinite().all()
    assert not torch.equal(found, whole)
    everything = gradient(list(range(len(T))))
    assert torch.equal(everything, torch.zeros_like(everything))


def test_under_the_linear_transport_it_is_the_normalised_mean_flow_residual():
    (x, z), student = batch(), Smooth(1)

    def loss(network):
        t = T[:, None]
        x_t, v = (1 - t) * x + t * z, z - x

        def predict(x_t, t):
            return network(x_t, t, torch.zeros_like(T))

        minus, derivative = torch.func.jvp(predict, (x_t, T), (v, torch.ones_like(T)))
        residual = minus - v + t * derivative
        residual = (residual / (residual.norm(dim=1, keepdim=True) + 0.1)).detach()
        prediction = predict(x_t, T)
        return (prediction - (prediction.detach() - residual)).square().mean()

    assert_same(objective(transport=Linear()), loss, student, x, noise=z, times=TIMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"network": "ema"}, "network must be one of student, target, got 'ema'"),
        ({"weighting": "cosine"}, "weighting must be one of uniform, learned, got 'cosine'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        SCM(**options)
