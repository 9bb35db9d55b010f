"""TwinFlow against the program of its authors, written down a second time in plain tensors."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm.objectives import EnhancedTarget, SelfAdversarial, TwinFlow
from rcgm.objectives.times import Times
from rcgm_kernels import Metric
from tests.support.plain import BATCH, Smooth, batch
from tests.support.residuals import assert_same_loss

# two samples of each part: the program has them in the order end, short, any, fake
FAKE, SHORT, ANY, END = (torch.arange(BATCH) // 2 == part for part in range(4))
T = torch.tensor([0.7, 0.3, 0.8, 0.5, 0.9, 0.6, 1.0, 1.0], dtype=torch.float64)
R = torch.tensor([0.7, 0.3, 0.77, 0.496, 0.2, 0.05, 0.0, 0.0], dtype=torch.float64)
LABELS, NULL = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), 5


def draws(shape, seed=3, *, image_free=False):
    """What a step draws: noise of the fakes, noise of the samples in place of the data, and ``s`` with its noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    fakes, data = normal(), normal() if image_free else None
    return fakes, data, torch.rand(shape[0], generator=generator).double(), normal()


def barron_reweighting(prediction, target, c=1e-3):
    squared = (prediction - target).square().mean(1)
    return squared / (squared.detach() / (c**2 + 1e-8) + 1).sqrt() / c


def program(
    x, z, ema, *, order=2, ratio=0.0, weight=0.5, labels=None, base=None, at_noise=False, loss_of=barron_reweighting
):
    """The loss of ``training_step``; with ``base``, a frozen network, the image-free one.

    The program does not guide at ``t = 1``; ``at_noise`` is to guide there as well.
    """

    def loss(network):
        column = T[:, None]

        def sampled(noise):  # forward() at (1, 0): x_hat = z - F
            return noise - network(noise, torch.ones_like(T), torch.zeros_like(T), labels)

        with torch.no_grad():
            fakes, own_data, s, noise = draws(x.shape, image_free=base is not None)
            data = x if base is None else sampled(own_data)
            data = torch.where(FAKE[:, None], sampled(fakes), data)
            x_t, target = column * z + (1 - column) * data, z - data
        t, r = torch.where(FAKE, -T, T), torch.where(FAKE, -T, R)
        prediction = network(x_t, t, r, labels)
        with torch.no_grad():
            guide, recursive = (ema, ema) if base is None else (base, network)
            if ratio:
                nulls = torch.full_like(labels, NULL)
                refer, predc = guide(x_t, t, t, nulls), guide(x_t, t, t, labels)
                inside = ((t < 1 + at_noise) & (t > 0) & ~FAKE)[:, None]
                guided = target + ratio * (predc - refer)
                if base is not None:
                    guided = ratio * (predc - refer) + refer
                target = torch.where(inside, guided, target)
            start = torch.maximum(T - 0.01, R)
            state, moved = x_t - 0.01 * target, torch.zeros_like(x_t)
            for i in range(order):
                now, after = (start * (1 - j / order) + R * (j / order) for j in (i, i + 1))
                F = recursive(state, now, after, labels)
                state, moved = state - (now - after)[:, None] * F, moved + (now - after)[:, None] * F
            near = T < R + 0.01
            ahead = torch.where(near, 1.0, 100 * (T - R))[:, None]
            change = ahead * prediction - torch.where(near, 0.0, 100.0)[:, None] * moved - target
            recursion = prediction - change.clamp(-1, 1)
            target = torch.where(FAKE[:, None], target, recursion)
        weighting = torch.tan((1 - (t.abs() - r.abs())) * math.pi / 2.5) + 1
        total = (loss_of(prediction, target) * torch.where(FAKE, 1.0, weighting)).mean()
        # dist_match, at the one-step samples
        x_hat = (x_t - prediction).detach()
        x_s = s[:, None] * noise + (1 - s)[:, None] * x_hat
        with torch.no_grad():
            delta = (network(x_s, -s, -s, labels) - network(x_s, s, s, labels)).clamp(-1, 1)
        rectified = loss_of(prediction, (prediction - delta).detach())
        return total + weight * rectified[END].mean()

    return loss


def compare(objective, expected, student, x, z, cond=None, **networks):
    """A difference is divided by the gap of 0.01, and the loss by its constant of 1e-3."""
    generator = torch.Generator().manual_seed(3)
    ours = objective(student, x, cond, noise=z, times=Times(T, R, 2), generator=generator, **networks)
    assert_same_loss(ours.loss, expected(student), student, divided_by=0.01 * 1e-3)
    return ours


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_loss_and_gradient_are_those_of_the_program(order, weight):
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    objective = TwinFlow(order=order, self_adversarial=SelfAdversarial(weight))
    compare(objective, program(x, z, ema, order=order, weight=weight), student, x, z, target=ema)


def test_squared_errors():
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    expected = program(x, z, ema, loss_of=lambda prediction, target: (prediction - target).square().mean(1))
    compare(TwinFlow(metric=Metric()), expected, student, x, z, target=ema)


def test_guidance_is_by_the_average_and_not_at_the_noise():
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    objective = TwinFlow(guidance=EnhancedTarget(0.5, t_max=0.999))
    expected = program(x, z, ema, ratio=0.5, labels=LABELS)
    compare(objective, expected, student, x, z, LABELS, target=ema, null_cond=torch.tensor([NULL]))


def test_image_free_distillation_from_the_frozen_network():
    """Nothing of the data is used. The program regresses on its own samples at ``t = 1``, this on the teacher."""
    (x, z), student, base = batch(), Smooth(1), Smooth(3)
    objective = TwinFlow(
        supervision="teacher",
        network="student",
        guidance=EnhancedTarget(2.5 - 1, network="teacher"),
        self_adversarial=SelfAdversarial(image_free=True),
    )
    expected = program(torch.full_like(x, math.nan), z, None, ratio=2.5, labels=LABELS, base=base, at_noise=True)
    nowhere = torch.full_like(x, math.nan)
    compare(objective, expected, student, nowhere, z, LABELS, teacher=base, null_cond=torch.tensor([NULL]))


def test_its_parts_and_what_they_cost():
    """Fakes; the first segment and the one-step samples; the second segment and both velocities of the samples."""
    (x, z), log = batch(), []

    class Logged(Smooth):
        def forward(self, x, t, r, cond=None):
            log.append((len(x), t.tolist(), r.tolist()))
            return super().forward(x, t, r, cond)

    student, ema = Logged(1), Smooth(2)
    out = TwinFlow()(student, x, target=ema, noise=z, times=Times(T, R, 2), generator=torch.Generator().manual_seed(0))
    assert (out.waves, out.evaluations) == (3, 6)
    fakes, ends, velocities, trained = log
    assert fakes == (2, [1.0, 1.0], [0.0, 0.0])
    assert ends == (2, [1.0, 1.0], [0.0, 0.0])
    rows, t, r = velocities
    assert rows == 4 and t == r and t[:2] == [-time for time in t[2:]] and min(t[2:]) >= 0
    rows, t, r = trained
    assert rows == BATCH
    assert t == [-0.7, -0.3, *T[2:].tolist()] and r == [-0.7, -0.3, *R[2:].tolist()]
    # what is reported of the samples are the times of their paths
    assert out.t.tolist() == T.tolist()


def test_drawn_times_are_in_four_equal_parts():
    times = TwinFlow().drawn_times().sample(4000, generator=torch.Generator().manual_seed(0), device="cpu")
    t, r = times.t.view(4, -1), times.r.view(4, -1)
    assert times.equal == 1000
    assert torch.equal(t[0], r[0])
    assert 0.04 < ((t - r)[1] / t[1]).max() <= 0.05 + 1e-6 < 0.9 < ((t - r)[2] / t[2]).max()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TwinFlow(self_adversarial=None), "self_adversarial must be given for twinflow; rcgm is the same"),
        (lambda: TwinFlow(order=-1), "order must be at least 0, got -1"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
