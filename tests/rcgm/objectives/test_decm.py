"""DE-CM's parts: where they vanish, when they come, what they ask, and its guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rcgm.derivatives import Central
from rcgm.engine.combination import term
from rcgm.objectives import DECM, EnhancedTarget, NormalizedTarget, Point, TimeSampler
from rcgm.transports import TrigFlow
from rcgm_kernels import Metric
from tests.support.decm_algorithm import ANYWHERE, BATCH, NULL, batch, column, decm
from tests.support.gaussian import Gaussian, problem
from tests.support.rounding import rounding_bound

# The Gaussian problem


def residuals(objective: DECM, network, **networks) -> Tensor:
    """Those of all parts, ``[parts, B, D]``, from the gradient ``2 R / (D B)``, the weights included."""
    x, z, labels = batch()
    predictions = []

    def student(x, t, r, cond):
        answer = network(x, t, r, cond)
        if torch.is_grad_enabled():
            predictions.append(answer.requires_grad_())
        return answer

    objective(student, x, labels, noise=z, null_cond=torch.tensor([NULL]), **networks).loss.backward()
    (prediction,) = predictions
    return prediction.grad.reshape(-1, BATCH, 3) * (BATCH * 3 / 2)


def test_every_part_vanishes_with_a_teacher():
    exact = problem()
    distilled = {"supervision": "teacher", "adaptive": None, "start_weight": 0.7, "end_weight": 1.3}
    found = residuals(decm(**distilled), exact, target=exact, teacher=exact)
    assert found.shape[0] == 3
    assert found.abs().max() < rounding_bound()
    coarse, fine = (
        residuals(decm(**distilled, derivative=Central(step)), exact, target=exact, teacher=exact)
        for step in (4e-3, 1e-3)
    )
    # Where t or r is at an end of its range the difference is one-sided, of first order.
    inside = [(0, slice(1, 5)), (2, [1, 2, 4, 7])]
    for part, samples in inside:
        # second order, a fourth of the step; the next term of the error is a step squared smaller
        assert coarse[part, samples].abs().max() / fine[part, samples].abs().max() == pytest.approx(16, rel=0.1)
    assert fine[1].abs().max() < rounding_bound()


def test_every_part_vanishes_at_the_guided_field():
    """Gaussians of one width: guidance moves the mean along the line through theirs, at the landing point too."""
    exact = problem()
    conditional, null = (Gaussian(exact.mean + shift, exact.std) for shift in (0.0, -0.8))
    guided = Gaussian(conditional.mean + 1.5 * (conditional.mean - null.mean), exact.std)

    def teacher(x, t, r, cond):
        return torch.where(column(cond == NULL), null(x, t, r), conditional(x, t, r))

    objective = decm(supervision="teacher", adaptive=None, guidance=EnhancedTarget(1.5, network="teacher"))
    assert residuals(objective, guided, target=guided, teacher=teacher).abs().max() < rounding_bound(size=10)
    assert residuals(objective, conditional, target=guided, teacher=teacher).abs().amax((1, 2)).min() > 0.1


# How often, and how much work


def test_the_third_part_comes_now_and_then():
    objective = DECM(every=3, near=TimeSampler(near=0.05))
    generator = torch.Generator().manual_seed(0)

    def draw(sampler):
        return sampler.sample(64, generator=generator, device="cpu")

    drawn = [objective.parts(draw(objective.times), step, draw) for step in range(7)]
    assert [len(parts) for parts in drawn] == [3, 2, 2, 3, 2, 2, 3]
    (_, whole), (_, instant), (_, near) = drawn[0]
    assert (whole.r == 0).all()
    assert torch.equal(instant.t, instant.r)
    assert instant.t is whole.t
    assert set((64 * whole.t).tolist()) <= set(range(1, 65))
    assert near.t.min() >= 0.95
    assert near.r.min() < 0.3


@pytest.mark.parametrize(
    ("step", "guidance", "waves", "evaluations"),
    [
        (1, None, 2, 1 + 1),  # teacher; derivative
        (0, None, 3, 1 + 1 + 1 + 2 + 1),  # and of the third part: teacher; step, derivative; teacher where it lands
        (1, EnhancedTarget(1.0, network="teacher"), 2, 2 + 1),
        (0, EnhancedTarget(1.0, network="teacher"), 3, 2 + 1 + 2 + 2 + 2),
    ],
)
def test_what_parts_ask_in_common_is_evaluated_once(step, guidance, waves, evaluations, random_network):
    x, z, labels = batch()
    out = decm(supervision="teacher", guidance=guidance)(
        random_network(1), x, labels, teacher=random_network(2), null_cond=torch.tensor([NULL]), noise=z, step=step
    )
    assert (out.waves, out.evaluations) == (waves, evaluations)


@pytest.mark.parametrize(("step", "parts"), [(0, 3), (1, 2)])
def test_given_times_are_those_of_the_first_two_parts(step, parts, random_network):
    x, z, labels = batch()
    generator = torch.Generator().manual_seed(1)
    out = decm()(
        random_network(1), x, labels, noise=z, times=(ANYWHERE, 0.5 * ANYWHERE), step=step, generator=generator
    )
    t, r = out.t.reshape(parts, BATCH), out.r.reshape(parts, BATCH)
    assert torch.equal(t[:2], ANYWHERE.expand(2, BATCH))
    assert not r[0].any()
    assert torch.equal(r[1], ANYWHERE)
    if parts == 3:
        assert t[2].min() >= 0.95


def test_normalisation_reaches_the_parts_that_learn_from_a_derivative(random_network):
    x, z, labels = batch()
    plain, normalized = (
        decm(metric=Metric(), adaptive=None, normalize=constant)(random_network(1), x, labels, noise=z, step=1).loss
        for constant in (None, 0.1)
    )
    assert normalized != plain


# Velocity normalisation


def guided_difference(guidance: NormalizedTarget, difference: Tensor, dropped: Tensor | None = None) -> Tensor:
    x, z, _ = batch()
    point = Point(x, z, x, z, z, ANYWHERE, ANYWHERE, 0, dropped)
    with_null = torch.zeros_like(difference)
    return guidance.regression_target(point, term(z), [difference, with_null]).value() - z


def test_the_guiding_difference_has_one_size_whatever_it_was():
    direction, _, _ = batch()
    sizes = torch.logspace(-6, 6, BATCH, dtype=torch.float64)
    change = guided_difference(NormalizedTarget(2.0, size=0.3), column(sizes) * direction)
    torch.testing.assert_close(change.square().mean(1).sqrt(), torch.full((BATCH,), 0.6, dtype=torch.float64))
    torch.testing.assert_close(cosine_similarity(change, direction), torch.ones(BATCH, dtype=torch.float64))


def test_normalised_guidance_leaves_alone_what_is_outside_dropped_or_without_a_difference():
    difference = batch()[0]
    difference[2] = 0
    dropped = torch.zeros(BATCH, dtype=torch.bool)
    dropped[4] = True
    change = guided_difference(NormalizedTarget(2.0, 0.28, 0.95), difference, dropped)
    changed = (change != 0).any(1)
    assert changed.tolist() == [False, False, False, True, False, True, False, False]


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"transport": TrigFlow()}, ValueError, r"transport must be linear for decm, got TrigFlow\("),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2.0}, TypeError, r"every must be an int, got 2\.0"),
        ({"every": True}, TypeError, "every must be an int, got True"),
        ({"start_weight": -1.0}, ValueError, r"start_weight must be a finite number >= 0, got -1\.0"),
        ({"end_weight": float("nan")}, ValueError, "end_weight must be a finite number >= 0, got nan"),
        ({"start_weight": 0.0, "end_weight": 0.0}, ValueError, "start_weight and end_weight must not both be 0"),
    ],
)
def test_bad_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        DECM(**arguments)


def test_bad_size_of_the_guidance():
    with pytest.raises(ValueError, match=r"guidance size must be a finite number > 0, got 0\.0"):
        NormalizedTarget(1.0, size=0.0)


def test_a_teacher_is_asked_for_before_any_work(random_network):
    x, _, labels = batch()
    with pytest.raises(ValueError, match="teacher must be given"):
        DECM(supervision="teacher")(random_network(1), x, labels)
