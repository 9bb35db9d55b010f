"""RCGM against its algorithm, written down a second time from the page (math.md section 2), in plain tensors.

Here one sample at a time, with times as plain numbers; the library has waves, coefficients and a fused kernel instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching
from rcgm.objectives import residual as residual_module
from rcgm.objectives.times import Times, knots
from rcgm_kernels import AdaptiveWeight, Metric, fused_loss
from tests.support.residuals import assert_same_loss
from tests.support.rounding import assert_rounded

NULL = 4
# t and r. The first EQUAL are said to be equal; the others hold a sample that happens to be.
EQUAL = 3
INTERVALS = [
    (0.7, 0.7),
    (0.25, 0.25),
    (1.0, 1.0),
    (0.4, 0.4),
    (0.0, 0.0),
    (0.5, 0.497),  # t - dt < r
    (0.5, 0.49),  # t - dt = r
    (0.004, 0.0),  # t < dt
    (1.0, 0.0),
    (1.0, 0.3),
    (0.8, 0.1),
    (0.62, 0.55),
    (0.9, 0.2),
    (0.33, 0.0),
]
BATCH = len(INTERVALS)


@dataclass
class Settings:
    order: int
    points: str
    base: str
    clip: float | None
    dt: float = 0.01
    guidance: tuple[float, float, float] | None = None


def residual_of_one_sample(
    student: Callable, target: Callable, x: Tensor, z: Tensor, t: float, r: float, label: Tensor | None, s: Settings
) -> Tensor:
    """``R`` of a sample ``x``, ``z`` of shape ``[1, ...]``."""

    def ask(network, state, start, end, condition=label):
        with torch.no_grad():
            return network(state, *torch.tensor([[start], [end]], dtype=torch.float64), condition)

    x_t = t * z + (1 - t) * x
    v = z - x
    if s.guidance is not None:
        scale, t_min, t_max = s.guidance
        if t_min <= t <= t_max:
            null = torch.tensor([NULL])
            v = v + scale * (ask(target, x_t, t, t) - ask(target, x_t, t, t, null))
    base = ask(student if s.base == "student" else target, x_t, t, r)
    t1 = max(t - s.dt, r)
    if s.order == 0 or t1 == r:
        zeta = base - v
    else:
        # t_1, ..., t_{N+1}
        knots = [t1 - i * (t1 - r) / s.order for i in range(s.order + 1)]
        x_1 = x_t - (t - t1) * v
        total = (t - r) * base
        state = x_1
        for i in range(s.order):
            now, after = knots[i], knots[i + 1]
            if i > 0 and s.points == "rollout":
                before = knots[i - 1]
                state = state - (before - now) * ask(target, state, before, now)
            elif i > 0 and s.points == "jump":
                state = x_1 - (t1 - now) * ask(target, x_1, t1, now)
            elif i > 0:
                state = now * z + (1 - now) * x
            total = total - (now - after) * ask(target, state, now, after)
        zeta = total / (t - t1) - v
    return zeta if s.clip is None else zeta.clamp(-s.clip, s.clip)


def batch(shape=(BATCH, 3), seed=5):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    times = torch.tensor(INTERVALS, dtype=torch.float64)
    labels = torch.randint(0, NULL, (shape[0],), generator=generator)
    return x, z, Times(times[:, 0].contiguous(), times[:, 1].contiguous(), EQUAL), labels


def residuals(student, target, x, z, labels, settings) -> Tensor:
    rows = [
        residual_of_one_sample(
            student,
            target,
            x[i : i + 1],
            z[i : i + 1],
            *INTERVALS[i],
            None if labels is None else labels[i : i + 1],
            settings,
        )
        for i in range(len(x))
    ]
    return torch.cat(rows)


def predictions(student, x, z, times, labels) -> Tensor:
    column = times.t.reshape(-1, *[1] * (x.ndim - 1))
    return student(column * z + (1 - column) * x, times.t, times.r, labels)


def compare(objective, settings, student, target, x, z, times, labels):
    """Loss and gradient against those of the regression on the target ``sg(F - R)``."""
    out = objective(
        student,
        x,
        labels,
        target=target,
        null_cond=None if labels is None else torch.tensor([NULL]),
        noise=z,
        times=times,
    )
    R = residuals(student, target, x, z, labels, settings)
    F = predictions(student, x, z, times, labels)
    regression = (F - (F - R).detach()).square().flatten(1).mean(1).mean()
    assert_rounded(out.loss, R.square().flatten(1).mean(1).mean(), divided_by=settings.dt)
    assert_rounded(out.prediction, F)
    assert_same_loss(out.loss, regression, student, divided_by=settings.dt)
    return R


@pytest.mark.parametrize("guidance", [None, (1.7, 0.3, 0.85)], ids=["unguided", "guided"])
@pytest.mark.parametrize("clip", [None, 1.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("base", ["student", "target"])
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_loss_and_gradient(points, order, base, clip, guidance, random_network):
    student, target = random_network(1), random_network(2)
    x, z, times, labels = batch()
    settings = Settings(order, points, base, clip, guidance=guidance)
    objective = RCGM(
        order=order,
        points=points,
        base=base,
        clip=clip,
        guidance=None if guidance is None else EnhancedTarget(*guidance),
    )
    R = compare(objective, settings, student, target, x, z, times, labels)
    if clip is not None:
        # Both sides of the clamp are taken.
        assert 0 < (R.abs() == clip).double().mean() < 1


@pytest.mark.parametrize("dt", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_other_gaps(points, dt, random_network):
    x, z, times, labels = batch()
    settings = Settings(3, points, "target", None, dt=dt)
    objective = RCGM(order=3, points=points, base="target", clip=None, dt=dt)
    compare(objective, settings, random_network(1), random_network(2), x, z, times, labels)


def test_images_without_condition(random_network):
    x, z, times, _ = batch((BATCH, 2, 2, 3))
    settings = Settings(4, "jump", "student", 1.0)
    student, target = random_network(1, dimensions=12), random_network(2, dimensions=12)
    compare(RCGM(order=4, points="jump"), settings, student, target, x, z, times, None)


def test_student_as_its_own_target(random_network):
    x, z, times, labels = batch()
    student = random_network(1)
    out = RCGM(order=2, clip=None)(student, x, labels, noise=z, times=times)
    R = residuals(student, student, x, z, labels, Settings(2, "rollout", "student", None))
    assert_rounded(out.loss, R.square().mean(), divided_by=0.01)


def test_equal_samples_need_not_be_announced(random_network):
    student, target = random_network(1), random_network(2)
    x, z, times, labels = batch()
    for objective in (RCGM(order=3), RCGM(order=3, points="jump", base="target"), RCGM(order=2, points="interpolant")):
        told, untold = (
            objective(student, x, labels, target=target, noise=z, times=Times(times.t, times.r, equal))
            for equal in (EQUAL, 0)
        )
        assert_same_loss(told.loss, untold.loss, student, divided_by=objective.dt)


def test_float32_times_close_to_the_gap(random_network):
    """Float32 states and times, as in training: the residual stays that of the float64 algorithm at those times."""
    student, target = random_network(1), random_network(2)
    single, single_target = random_network(1, torch.float32), random_network(2, torch.float32)
    x, z, times, labels = batch()
    small = Times(times.t.float(), times.r.float(), EQUAL)
    exact = Times(small.t.double(), small.r.double(), EQUAL)
    objective = RCGM(order=2, dt=0.1, clip=None)
    loss = objective(single, x.float(), labels, target=single_target, noise=z.float(), times=small).loss
    expected = objective(student, x, labels, target=target, noise=z, times=exact).loss
    assert loss.dtype == torch.float32
    assert_rounded(loss.double(), expected, dtype=torch.float32, divided_by=objective.dt)


def test_flow_matching(random_network):
    student = random_network(1)
    x, z, times, labels = batch()
    instant = Times(times.t, times.t, BATCH)
    out = FlowMatching()(student, x, labels, noise=z, times=instant)
    F = predictions(student, x, z, instant, labels)
    expected = (F - (z - x)).square().mean()
    assert_same_loss(out.loss, expected, student)


def test_flow_matching_draws_equal_times(random_network):
    x, _, _, labels = batch()
    out = FlowMatching()(random_network(1), x, labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out.t, out.r)


@pytest.mark.parametrize("adaptive", [None, AdaptiveWeight(0.75, 1e-2)], ids=["even", "adaptive"])
@pytest.mark.parametrize("metric", [Metric(), Metric("pseudo_huber", c=0.3)], ids=["l2", "pseudo-huber"])
def test_metric_and_adaptive_weight_reach_the_loss(metric, adaptive, random_network):
    student, target = random_network(1), random_network(2)
    x, z, times, labels = batch()
    R = residuals(student, target, x, z, labels, Settings(2, "rollout", "student", 1.0))
    F = predictions(student, x, z, times, labels)
    m = (F - (F - R).detach()).square().mean(1)
    loss = m if metric.name == "l2" else (m + 0.3**2).sqrt() - 0.3
    if adaptive is not None:
        loss = loss / (x[0].numel() * m.detach() + 1e-2) ** 0.75
    expected = loss.mean()
    ours = RCGM(order=2, metric=metric, adaptive=adaptive)(student, x, labels, target=target, noise=z, times=times).loss
    assert_same_loss(ours, expected, student, divided_by=0.01)


@pytest.mark.parametrize("base", ["student", "target"])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_kernel_is_handed_the_knots(order, base, random_network, monkeypatch):
    """Under the linear transport the loss is ``fused_loss`` of the knots, segments and velocity themselves."""
    calls = []

    def recorded(prediction, segments, velocity, times, **options):
        calls.append((len(segments), velocity, times, options))
        return fused_loss(prediction, segments, velocity, times, **options)

    monkeypatch.setattr(residual_module, "fused_loss", recorded)
    student, target = random_network(1), random_network(2)
    x, z, times, labels = batch()
    RCGM(order=order, base=base)(student, x, labels, target=target, noise=z, times=times)
    ((count, velocity, given, options),) = calls
    assert count == order
    assert torch.equal(given, knots(times.t, times.r, 0.01, order))
    torch.testing.assert_close(velocity, z - x)
    assert (options["base"] is None) == (base == "student")


def test_normalisation_reaches_the_loss(random_network):
    student, target = random_network(1), random_network(2)
    x, z, times, labels = batch()
    R = residuals(student, target, x, z, labels, Settings(2, "rollout", "student", 1.0))
    expected = (R / (R.norm(dim=1, keepdim=True) + 0.1)).square().mean()
    for options, factor in (({}, 1), ({"normalize_scale": 3.0}, 9), ({"reduce": "sum"}, 3)):
        objective = RCGM(order=2, normalize=0.1, **options)
        ours = objective(student, x, labels, target=target, noise=z, times=times).loss
        assert_rounded(ours, factor * expected, divided_by=0.01)
