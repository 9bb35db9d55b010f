"""MeanFlow against its algorithm (Geng et al. 2025, algorithm 1, equations 10, 21 and 22), in plain tensors."""

from __future__ import annotations

import pytest
import torch

from rcgm.derivatives import Central, ForwardMode
from rcgm.objectives import MeanFlow, MixedTarget, TiM, Times
from rcgm.transports import Linear, ReversedLinear, TrigFlow
from rcgm_kernels import AdaptiveWeight
from tests.support.plain import BATCH, Smooth, assert_same, batch
from tests.support.rounding import assert_rounded

T = torch.tensor([0.9, 0.4, 1.0, 0.8, 0.3, 0.62, 0.55, 0.99], dtype=torch.float64)
R = torch.tensor([0.9, 0.4, 0.0, 0.1, 0.0, 0.6, 0.2, 0.5], dtype=torch.float64)
EQUAL = 2
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
NULL = torch.tensor([5])


def algorithm(x, e, *, omega=None, kappa=0.0, power=1.0, step=None):
    """The paper's letters: u the network, e the noise, z = (1 - t) x + t e; c = 1e-3."""

    def loss(u):
        t, r = T[:, None], R[:, None]
        z = (1 - t) * x + t * e
        v = e - x
        cond = None if omega is None else LABELS
        if omega is not None:
            with torch.no_grad():
                v = omega * v + kappa * u(z, T, T, LABELS) + (1 - omega - kappa) * u(z, T, T, NULL.expand(BATCH))

        def function(z, r, t):
            return u(z, t, r, cond)

        if step is None:
            _, dudt = torch.func.jvp(function, (z, R, T), (v, torch.zeros_like(R), torch.ones_like(T)))
        else:
            ahead, behind = (
                torch.minimum(1 - T, torch.full_like(T, step)),
                torch.minimum(T - R, torch.full_like(T, step)),
            )
            dudt = function(z + ahead[:, None] * v, R, T + ahead) - function(z - behind[:, None] * v, R, T - behind)
            dudt = dudt / (ahead + behind)[:, None]
        target = (v - (t - r) * dudt).detach()
        error = function(z, R, T) - target
        squared = error.square().sum(1)
        weight = 1 / (squared.detach() + 1e-3) ** power
        return (weight * squared / 3).mean()

    return loss


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("step", [None, 0.005])
def test_loss_and_gradient_are_those_of_the_algorithm(step, power):
    (x, e), u = batch(), Smooth(1)
    objective = MeanFlow(derivative=ForwardMode() if step is None else Central(step), adaptive=AdaptiveWeight(power))
    times = Times(T, R, EQUAL)
    assert_same(objective, algorithm(x, e, power=power, step=step), u, x, noise=e, times=times, divided_by=step or 1)


@pytest.mark.parametrize(("omega", "kappa"), [(2.0, 0.0), (0.2, 0.92)])
def test_guidance_is_that_of_the_paper(omega, kappa):
    (x, e), u = batch(), Smooth(1)
    guidance = MixedTarget(scale=kappa, data=omega, network="student")
    objective = MeanFlow(derivative=ForwardMode(), guidance=guidance)
    expected = algorithm(x, e, omega=omega, kappa=kappa)
    assert_same(objective, expected, u, x, LABELS, null_cond=NULL, noise=e, times=Times(T, R, EQUAL))


def test_published_settings_are_the_defaults():
    drawn = MeanFlow().times.sample(1000, generator=torch.Generator().manual_seed(0), device="cpu")
    assert drawn.equal == 750
    assert (drawn.t[:750] == drawn.r[:750]).all()
    assert (drawn.r <= drawn.t).all()
    assert MeanFlow().adaptive == AdaptiveWeight(1.0, 1e-3)


def test_samples_of_no_interval_are_not_evaluated():
    (x, e), u = batch(), Smooth(1)
    output = MeanFlow()(u, x, noise=e, times=Times(T, T, BATCH))
    assert (output.waves, output.evaluations) == (0, 0)


@pytest.mark.parametrize("transport", [Linear(), ReversedLinear()], ids=lambda transport: type(transport).__name__)
@pytest.mark.parametrize("step", [None, 0.005])
@pytest.mark.parametrize("inputs", ["data", "guided"])
def test_it_is_tims_identity_under_the_linear_transport(inputs, step, transport):
    (x, e), u = batch(), Smooth(1)
    settings = {
        "transport": transport,
        "derivative": ForwardMode() if step is None else Central(step),
        "guidance": MixedTarget(scale=0.92, data=0.2, network="student"),
        "inputs": inputs,
        "adaptive": None,
        "sample_weight": None,
    }
    results = []
    for objective in (MeanFlow(**settings), TiM(**settings)):
        output = objective(u, x, LABELS, null_cond=NULL, noise=e, times=Times(T, R, EQUAL))
        results.append([output.loss, *torch.autograd.grad(output.loss, list(u.parameters()))])
    for mean_flow, tim in zip(*results, strict=True):
        # TiM multiplies by B/B' and 0 where MeanFlow has t - r and nothing
        assert_rounded(mean_flow, tim)


def test_other_transports_have_tims_identity():
    (x, e), u = batch(), Smooth(1)
    settings = {"transport": TrigFlow(), "inputs": "guided", "adaptive": None, "sample_weight": None}
    losses = [
        objective(u, x, noise=e, times=Times(T, R, EQUAL)).losses
        for objective in (MeanFlow(**settings), TiM(**settings))
    ]
    assert torch.equal(*losses)
