"""The self-adversarial term, added to several objectives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rcgm.config import ConfigError, build_objective_from
from rcgm.distributed.shares import Share
from rcgm.engine import Engine, Query
from rcgm.objectives import (
    RCGM,
    AlphaFlow,
    Consistency,
    ImprovedMeanFlow,
    IntervalWeight,
    MeanFlow,
    SelfAdversarial,
    TangentWeight,
    TiM,
    TimeSampler,
)
from rcgm.objectives.times import Times
from rcgm.transports import TrigLinear
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support.configurations import parse
from tests.support.gaussian import problem
from tests.support.plain import BATCH, Smooth, batch
from tests.support.residuals import assert_same_loss, read
from tests.support.rounding import assert_rounded

T = torch.tensor([0.7, 0.3, 0.8, 0.5, 0.9, 0.6, 0.4, 0.2], dtype=torch.float64)
R = torch.tensor([0.7, 0.3, 0.8, 0.1, 0.2, 0.05, 0.3, 0.1], dtype=torch.float64)
FAKES, ENDS = 2, 2
PLAIN = {"metric": Metric(), "adaptive": None, "reduce": "mean"}
OBJECTIVES = {
    "rcgm": lambda **more: RCGM(order=2, **more),
    "alpha_flow": lambda **more: AlphaFlow(alpha=0.3, **more),
    "mean_flow": lambda **more: MeanFlow(**more),
    "improved_mean_flow": lambda **more: ImprovedMeanFlow(**more),
    "tim": lambda **more: TiM(sample_weight=IntervalWeight(), **more),
    "rcgm, weighted": lambda **more: RCGM(sample_weight=TangentWeight(), **more),
}


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_that_of_the_objective_and_of_the_term(name, weight):
    """The objective where samples are of the data, flow matching at negative times, and delta at the one-step ones."""
    (x, z), student, target = batch(), Smooth(1), Smooth(2)
    objective = OBJECTIVES[name](self_adversarial=SelfAdversarial(weight), **PLAIN)
    out = objective(student, x, target=target, noise=z, times=Times(T, R, 3), generator=generator())

    draws = generator()
    noise = torch.randn(BATCH, 3, generator=draws, dtype=torch.float64)
    s = torch.rand(BATCH, generator=draws).double()
    other = torch.randn(BATCH, 3, generator=draws, dtype=torch.float64)
    one, zero, transport = torch.ones_like(T), torch.zeros_like(T), objective.transport
    t, r = torch.cat([T[:-ENDS], one[:ENDS]]), torch.cat([R[:-ENDS], zero[:ENDS]])
    plain = replace(objective, self_adversarial=None)
    own = plain(student, x[FAKES:], target=target, noise=z[FAKES:], times=Times(t[FAKES:], r[FAKES:], 1)).losses
    fakes = transport.move(noise, student(noise, one, zero).detach(), one, zero)[:FAKES]
    state, _, regressed = transport.path(fakes, z[:FAKES], t[:FAKES])
    matched = (student(state, -t[:FAKES], -t[:FAKES]) - regressed).square().mean(1)
    end = slice(BATCH - ENDS, None)
    state = transport.path(x[end], z[end], one[end])[0]
    prediction = student(state, one[end], zero[end])
    sample = transport.move(state, prediction.detach(), one[end], zero[end])
    x_s = transport.points(sample, other[end], s[end][None])[0]
    delta = (student(x_s, -s[end], -s[end]) - student(x_s, s[end], s[end])).detach().clamp(-1, 1)
    rectified = (prediction - (prediction.detach() - delta)).square().mean(1)
    of_times = 1 if objective.sample_weight is None else objective.sample_weight(one, zero)[0]
    expected = own.sum() / BATCH + of_times * (matched.sum() / BATCH + weight * rectified.mean())
    # a central difference is divided by twice its step of 0.005, and the gap by alpha
    assert_same_loss(out.loss, expected, student, divided_by=0.005)
    assert out.losses.shape == (BATCH,)


@pytest.mark.parametrize(
    "own", [{"adaptive": AdaptiveWeight(1.0)}, {"normalize": 0.1, "normalize_scale": 3.0}, {"clip": 0.01}]
)
def test_the_term_is_not_weighted_by_its_own_size(own):
    """Those weights would keep the gradient of delta as large as ever while delta vanishes."""
    (x, z), student = batch(), Smooth(1)

    def losses(weight, **options):
        objective = RCGM(self_adversarial=SelfAdversarial(weight), **{"clip": None, **options})
        return objective(student, x, noise=z, times=Times(T, R, 3), generator=generator()).losses.detach()

    assert torch.equal(losses(0.7, **own)[:FAKES], losses(0.7)[:FAKES])
    rectified = losses(0.7) - losses(0.0)
    assert rectified[-ENDS:].min() > 1e-3 and not rectified[:-ENDS].any()
    assert_rounded(losses(0.7, **own), losses(0.0, **own) + rectified)
    assert (losses(0.0, **own) - losses(0.0))[FAKES:].abs().min() > 1e-6


def test_the_weight_rises_over_the_warm_up():
    (x, z), student = batch(), Smooth(1)

    def losses(term, step):
        objective = MeanFlow(self_adversarial=term)
        return objective(student, x, noise=z, times=Times(T, R, 3), generator=generator(), step=step).losses.detach()

    warmed = SelfAdversarial(0.6, warmup_steps=100)
    for step, weight in ((0, 0.0), (25, 0.15), (100, 0.6), (1000, 0.6)):
        assert_rounded(losses(warmed, step), losses(SelfAdversarial(weight), step))


def test_delta_is_nothing_when_fakes_and_data_agree():
    """The exact network of Gaussian data makes samples like the data, and has one velocity for both."""
    gaussian = problem()

    def network(x, t, r, cond=None):
        return gaussian(x, t.abs(), r.abs())

    generated = generator(5)
    z = torch.randn(256, 3, generator=generated, dtype=torch.float64)
    # samples at t = 1 alone, where the pair of means is the mean of the data and the noise itself
    x, times = gaussian.mean.expand(256, 3).clone(), Times(torch.ones(256).double(), torch.zeros(256).double())
    with_term = RCGM(dt=1e-3, clip=None, self_adversarial=SelfAdversarial(weight=1.0, fraction=0.5))
    without = replace(with_term, self_adversarial=replace(with_term.self_adversarial, weight=0.0))
    _, residual = read(with_term, network, x, z, times, generator=generator())
    assert torch.equal(residual, read(without, network, x, z, times, generator=generator())[1])

    def other(x, t, r, cond=None):  # whose velocity of fakes is 0.1 more
        return gaussian(x, t.abs(), r.abs()) + 0.1 * (t < 0).double()[:, None]

    _, rectified = read(with_term, other, x, z, times, generator=generator())
    assert_rounded((rectified - residual)[128:], torch.full((128, 3), 0.2, dtype=torch.float64), divided_by=1e-3)


def test_fakes_are_taught_nothing_but_themselves():
    """Neither the teacher nor guidance nor the data reach them."""
    (x, z), student, labels = batch(), Smooth(1), torch.arange(BATCH) % 5
    losses = []
    for teacher, data in ((Smooth(3), x), (Smooth(4), x + 1)):
        objective = RCGM(clip=None, supervision="teacher", self_adversarial=SelfAdversarial(0.5))
        out = objective(student, data, labels, teacher=teacher, noise=z, times=Times(T, R, 3), generator=generator())
        losses.append(out.losses.detach())
    assert torch.equal(losses[0][:FAKES], losses[1][:FAKES])
    assert (losses[0] - losses[1])[FAKES:].abs().min() > 1e-6


def test_image_free_uses_no_data():
    (x, z), student, teacher = batch(), Smooth(1), Smooth(3)
    term = SelfAdversarial(image_free=True)
    losses = [
        MeanFlow(supervision="teacher", self_adversarial=term)(
            student, data, teacher=teacher, noise=z, times=Times(T, R, 3), generator=generator()
        ).loss
        for data in (x, torch.full_like(x, torch.nan))
    ]
    assert losses[0].isfinite() and torch.equal(*losses)


@pytest.mark.parametrize("equal", [0.0, 0.5])
def test_drawn_times_leave_those_of_the_objective_in_between(equal):
    objective = RCGM(times=TimeSampler(equal=equal, zero=0.2), self_adversarial=SelfAdversarial(fraction=0.2))
    times = objective.drawn_times().sample(1000, generator=generator(), device="cpu")
    same, zero = (times.t == times.r)[200:800], (times.r == 0)[200:800]
    assert times.equal == 200 + 600 * equal
    assert (same.sum(), zero.sum()) == (600 * equal, 600 * 0.2)
    assert RCGM().drawn_times() == RCGM().times


def test_a_query_of_some_rows():
    (x, _), network = batch(), Smooth(1)
    labels = torch.arange(BATCH) % 5
    engine = Engine({"target": network}, labels)
    whole, first, middle, none = engine.evaluate(
        [Query(x, T, R), Query(x, T, R, stop=3), Query(x, T, R, start=2, stop=5), Query(x, T, R, start=5, stop=5)]
    )
    assert_rounded(first[:3], whole[:3])
    assert_rounded(middle[2:5], whole[2:5])
    assert not first[3:].any() and not middle[:2].any() and not middle[5:].any() and not none.any()
    assert engine.rows == BATCH + 3 + 3


@pytest.mark.parametrize("total", [9, 12, 17])
@pytest.mark.parametrize("number", [1, 3, 4])
@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_processes_make_the_same_forwards_of_the_leading_rows(total, number, world_size, micro_batches):
    for micro_batch in range(micro_batches):
        shares = [Share(total, rank, world_size, micro_batch, micro_batches) for rank in range(world_size)]
        taken = [share.leading(number) for share in shares]
        assert all(take >= share.before(number) for take, share in zip(taken, shares, strict=True))
        assert all(taken) or not any(taken)
        assert any(taken) == any(share.before(number) for share in shares)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfAdversarial(weight=-0.5), "self_adversarial weight must be a finite number >= 0, got -0.5"),
        (lambda: SelfAdversarial(warmup_steps=-1), "self_adversarial warmup_steps must be .* got -1"),
        (lambda: SelfAdversarial(fraction=0.6), "self_adversarial fraction must be above 0 and at most 0.5, got 0.6"),
        (lambda: SelfAdversarial(clip=0.0), "self_adversarial clip must be > 0 or None, got 0.0"),
        (
            lambda: RCGM(self_adversarial=SelfAdversarial(image_free=True)),
            "supervision must be teacher with self_adversarial image_free, got 'data'",
        ),
        (
            lambda: Consistency(self_adversarial=SelfAdversarial()),
            "self_adversarial must be None for a consistency model, which does not learn velocities",
        ),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_batch_that_is_too_small():
    with pytest.raises(ValueError, match=r"fraction of 0\.25 fakes .* got 1 in all: make batch_size larger"):
        RCGM(self_adversarial=SelfAdversarial())(Smooth(1), batch()[0][:1])


def test_a_configuration_names_it():
    found = build_objective_from(parse("objective={name: tim, self_adversarial: {weight: 0.5}}"))
    assert found == TiM(self_adversarial=SelfAdversarial(0.5))
    assert found.transport == TrigLinear()
    assert build_objective_from(parse("objective.name=rcgm")).self_adversarial is None
    with pytest.raises(ConfigError, match=r"objective\.self_adversarial\.weigth"):
        parse("objective={name: mean_flow, self_adversarial: {weigth: 0.5}}")
    with pytest.raises(ConfigError, match=r"unknown key 'objective\.self_adversarial'"):
        parse("objective={name: flow_matching, self_adversarial: {weight: 0.5}}")
