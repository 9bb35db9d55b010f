"""Improved MeanFlow against the program of its authors, written down a second time with one head, in plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rcgm.config import ConfigError, build_objective_from
from rcgm.derivatives import Central, ForwardMode, OneSided
from rcgm.objectives import RCGM, ImprovedMeanFlow, InputGuidance, MeanFlow
from rcgm.objectives.times import Times
from tests.support.configurations import parse
from tests.support.gaussian import problem, states
from tests.support.plain import BATCH, Smooth, assert_same, batch
from tests.support.residuals import read
from tests.support.rounding import assert_rounded

T = torch.tensor([0.9, 0.4, 1.0, 0.75, 0.5, 0.25, 0.62, 0.98], dtype=torch.float64)
R = torch.tensor([0.9, 0.4, 0.0, 0.5, 0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
EQUAL = 2
LABELS, NULL = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), 5
DROPPED = torch.arange(BATCH) % 4 == 3


class Told(Smooth):
    """A network that takes scale and interval of guidance as inputs, and remembers them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = torch.Generator().manual_seed(seed)
        self.guidance = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def forward(self, x, t, r, cond):
        self.seen.append(cond["guidance"])
        told = cond["guidance"].to(x.dtype)
        return super().forward(x, t, r, cond["labels"]) + torch.sin(told @ self.guidance) * x


def program(x, z, guidance, dropped):
    """The loss of the program. Its second head is the boundary ``u(z_t, t, t)`` here, which has no loss of its own."""
    omega, low, high = guidance.unbind(1)

    def loss(network):
        def u(state, t, r, omega, low, high, labels):
            told = torch.stack([omega, low, high], dim=1)
            return network(state, t, r, {"labels": labels, "guidance": told})

        def v_of(state, omega, labels):
            return u(state, T, T, omega, torch.zeros_like(T), torch.ones_like(T), labels)

        column = T[:, None]
        z_t, v_t = (1 - column) * x + column * z, z - x
        with torch.no_grad():
            v_c, v_u = v_of(z_t, omega, LABELS), v_of(z_t, torch.ones_like(T), torch.full_like(LABELS, NULL))
            used = torch.where((low <= T) & (high >= T), omega, 1.0)
            v_g = v_t + (1 - 1 / used)[:, None] * (v_c - v_u)
            tangent = v_of(z_t, used, LABELS)
            v_g = torch.where(dropped[:, None], v_t, v_g)
        labels = torch.where(dropped, NULL, LABELS)
        _, du_dt = torch.func.jvp(
            lambda state, t: u(state, t, R, omega, low, high, labels), (z_t, T), (tangent, torch.ones_like(T))
        )
        V = u(z_t, T, R, omega, low, high, labels) + ((T - R)[:, None] * du_dt).detach()
        squared = (V - v_g).square().sum(1)
        return (squared / (squared.detach() + 0.01)).mean()

    return loss


@pytest.mark.parametrize("drop", [False, True])
def test_loss_and_gradient_are_those_of_the_program(drop):
    (x, z), student = batch(), Told(1)
    dropped = DROPPED & drop
    objective = ImprovedMeanFlow(guidance=InputGuidance(), derivative=ForwardMode())
    arguments = {"null_cond": torch.tensor([NULL]), "noise": z, "times": Times(T, R, EQUAL)}
    call = {**arguments, "dropped": dropped if drop else None}
    ours = objective(student, x, LABELS, generator=torch.Generator().manual_seed(3), **call)
    guidance = student.seen[-1]  # what was drawn: what the student is told in the forward that is trained
    assert guidance[:, 0].min() >= 1 and guidance[:, 0].max() <= 8
    assert_same(
        objective, program(x, z, guidance, dropped), student, x, LABELS, generator=torch.Generator().manual_seed(3),
        **call,
    )  # fmt: skip
    assert ours.waves == 2


@pytest.mark.parametrize("estimator", [Central(1e-4), OneSided(1e-5), Central(1e-3, order=4)])
def test_any_estimator_is_near_the_programs_derivative(estimator):
    (x, z), student = batch(), Told(1)
    call = {"null_cond": torch.tensor([NULL]), "noise": z, "times": Times(T, R, EQUAL)}
    exact, near = (
        ImprovedMeanFlow(guidance=InputGuidance(), derivative=derivative)(
            student, x, LABELS, generator=torch.Generator().manual_seed(3), **call
        ).loss
        for derivative in (ForwardMode(), estimator)
    )
    torch.testing.assert_close(near, exact, rtol=1e-4, atol=0)


def test_without_guidance_it_is_mean_flow_along_the_prediction():
    (x, z), student = batch(), Smooth(1)

    def loss(network):
        column = T[:, None]
        x_t = (1 - column) * x + column * z
        tangent = network(x_t, T, T).detach()
        _, derivative = torch.func.jvp(lambda x, t: network(x, t, R), (x_t, T), (tangent, torch.ones_like(T)))
        residual = network(x_t, T, R) + ((T - R)[:, None] * derivative).detach() - (z - x)
        squared = residual.square().sum(1)
        return (squared / (squared.detach() + 0.01)).mean()

    objective = ImprovedMeanFlow(derivative=ForwardMode())
    assert_same(objective, loss, student, x, noise=z, times=Times(T, R, EQUAL))
    along_noise = MeanFlow(derivative=ForwardMode(), reduce="sum", adaptive=objective.adaptive)
    other = along_noise(student, x, noise=z, times=Times(T, R, EQUAL)).loss
    assert not torch.isclose(other, objective(student, x, noise=z, times=Times(T, R, EQUAL)).loss, rtol=1e-3)


def test_its_derivative_does_not_depend_on_the_pair():
    """Pairs that meet in one point have the same derivative, and the residuals differ by their velocities alone."""
    student = Smooth(1)
    (x, z), t = batch(), torch.full((BATCH,), 0.6, dtype=torch.float64)
    shift = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    times = Times(t, 0.3 * t)
    plain = ImprovedMeanFlow(adaptive=None, reduce="mean", derivative=ForwardMode())
    _, one = read(plain, student, x, z, times)
    _, other = read(plain, student, x + 0.6 * shift, z - 0.4 * shift, times)
    assert_rounded(other - one, shift)


def test_the_residual_vanishes_at_the_exact_network():
    gaussian = problem()
    t = torch.linspace(0.2, 0.95, 64, dtype=torch.float64)
    times = Times(t, 0.4 * t)
    _, x, z = states(gaussian, times)
    exact = ImprovedMeanFlow(adaptive=None, reduce="mean", derivative=ForwardMode())
    _, residual = read(exact, gaussian, x, z, times)
    assert_rounded(residual, torch.zeros_like(x))


def test_every_objective_takes_guidance_as_an_input():
    """The target network is told what the student is told, and the teacher nothing."""
    (x, z), student, target, teacher = batch(), Told(1), Told(2), Smooth(3)
    objective = RCGM(guidance=InputGuidance(network="target"), supervision="teacher", label_dropout=0.5)
    out = objective(
        student, x, LABELS, target=target, teacher=teacher, null_cond=torch.tensor([NULL]),
        generator=torch.Generator().manual_seed(0), noise=z,
    )  # fmt: skip
    assert out.loss.isfinite()
    told = student.seen[-1]
    everywhere = torch.stack([told[:, 0], torch.zeros_like(T), torch.ones_like(T)], dim=1)
    nothing = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).expand(BATCH, 3)
    assert_rounded(target.seen[0], torch.cat([everywhere, nothing]).to(told))
    assert_rounded(target.seen[1], told)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_distribution_of_the_scale(power):
    from rcgm.distributed.shares import Share

    guidance = InputGuidance(scale=8.0, power=power)
    times = Times(torch.ones(20_000), torch.zeros(20_000), 100)
    drawn = guidance.inputs(times, Share(20_000), torch.Generator().manual_seed(0))
    omega, low, high = drawn.unbind(1)
    assert omega.min() >= 1 and omega.max() <= 8
    # the share below 2 is the integral of omega^-power; 20,000 draws err by at most 0.4% (one standard deviation)
    below = {0.0: 1 / 7, 1.0: 1 / 3, 2.0: 0.5 / 0.875}[power]
    assert (omega < 2).float().mean().item() == pytest.approx(below, abs=0.02)
    assert bool((low[:100] == 0).all() and (high[:100] == 1).all())
    assert low.min() >= 0 and low.max() <= 0.5 <= high.min() and high.max() <= 1
    assert low[100:].mean().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InputGuidance(scale=0.5), "guidance scale must be at least 1 as the largest input, got 0.5"),
        (lambda: InputGuidance(power=-1.0), "guidance power must be a finite number >= 0, got -1.0"),
        (lambda: InputGuidance(t_min=0.6, t_max=0.5), "guidance t_min and t_max must have"),
        (lambda: ImprovedMeanFlow(network="teacher"), "network must be one of student, target, got 'teacher'"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_configuration_names_it():
    words = ["objective={name: improved_mean_flow, guidance: {name: input, scale: 4, power: 2}}", "data.labels=true"]
    found = build_objective_from(parse(*words, "model.guidance_input=true"))
    assert found == ImprovedMeanFlow(guidance=InputGuidance(scale=4.0, power=2.0))
    with pytest.raises(ConfigError, match=r"needs a network that takes it: set model\.guidance_input to true"):
        parse(*words)
    with pytest.raises(ConfigError, match=r"model\.guidance_input must be false unless objective\.guidance is input"):
        parse("model.guidance_input=true")
