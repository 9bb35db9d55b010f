import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.derivatives.stencils import (
    four_nodes,
    interpolating_weights,
    query_at,
    reach,
    regression_weights,
    two_nodes,
)
from rcgm.engine import Engine
from rcgm.engine.queries import Derivative, Tangent
from tests.support.rounding import assert_rounded, rounding_bound

UNIT = st.floats(0, 1, width=32)
TANGENTS = [Tangent(torch.ones(1, 2), a, b) for a, b in [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.5, -2.0)]]


def estimate(estimator, network, t, r, tangent=None, **options):
    """The estimate, with what the network gives at the point itself standing for the prediction."""
    x = torch.zeros(len(t), 2, dtype=t.dtype)
    asked = Derivative(x, t, r, tangent or Tangent(torch.ones_like(x)), **options)

    def queries():
        return (yield [asked])

    (answer,) = Engine({"student": network}, estimator=estimator).run(queries())
    if isinstance(answer.pred_coeff, torch.Tensor):
        return with_prediction(answer, network(x, t, r, None))
    return answer.value()


def with_prediction(combination, prediction):
    total = combination.pred_coeff[:, None] * prediction
    for term, coeff in zip(combination.terms, combination.coeffs, strict=True):
        total = total + coeff[:, None] * term
    return total


def times(*pairs):
    t, r = torch.tensor(pairs, dtype=torch.float64).T
    return t.contiguous(), r.contiguous()


# Where they evaluate


@pytest.mark.parametrize("tangent", TANGENTS, ids=["t", "r", "x", "both", "apart"])
@settings(deadline=None, max_examples=100)
@given(t=UNIT, share=UNIT, step=st.floats(1e-4, 0.25))
def test_every_evaluation_is_in_range(tangent, t, share, step):
    t = torch.tensor([t])
    r = t * share
    asked = Derivative(torch.zeros(1, 2), t, r, tangent)
    back, ahead = reach(asked)
    assert (back <= 0).all() and (ahead >= 0).all()
    planned = [
        query
        for estimator in (Central(step), Central(step, order=4), OneSided(step), Auto(), Auto(evaluations=4))
        for query in estimator.plan(asked)[0]
    ]
    for query in planned:
        assert 0 <= query.r <= query.t <= 1
        assert query.x.isfinite().all()


@settings(deadline=None, max_examples=200)
@given(back=UNIT, ahead=UNIT, step=st.floats(1e-4, 0.25))
def test_nodes_stay_on_the_path_and_weights_are_finite(back, ahead, step):
    back, ahead = torch.tensor([-back], dtype=torch.float64), torch.tensor([ahead], dtype=torch.float64)
    for nodes in (two_nodes(back, ahead, step), four_nodes(back, ahead, step)):
        assert (nodes >= back).all() and (nodes <= ahead).all()
        assert (nodes.diff(dim=0) >= 0).all()
        for weights in (interpolating_weights(nodes), regression_weights(nodes)):
            assert weights.isfinite().all()
            # weights are as large as one over the least distance of nodes, 1e-6 of them
            assert weights.sum(0).abs() < rounding_bound(roundings=100, divided_by=1e-6)
            derivative = (weights * nodes).sum(0)
            expected = 1.0 if nodes[-1] - nodes[0] > 1e-6 else 0.0
            torch.testing.assert_close(derivative, torch.full_like(derivative, expected))


def test_nodes_of_a_point_with_room():
    back, ahead = torch.tensor([-0.5, -0.05, 0.0]), torch.tensor([0.5, 0.5, 0.5])
    torch.testing.assert_close(two_nodes(back, ahead, 0.1), torch.tensor([[-0.1, -0.05, 0.0], [0.1, 0.1, 0.1]]))
    torch.testing.assert_close(
        four_nodes(back, ahead, 0.1).T,
        torch.tensor([[-0.2, -0.1, 0.1, 0.2], [-0.05, 0.05, 0.25, 0.35], [0.0, 0.1, 0.3, 0.4]]),
    )


def test_the_textbook_weights():
    back, ahead = torch.tensor([-1.0]), torch.tensor([1.0])
    weights = interpolating_weights(four_nodes(back, ahead, 0.1))[:, 0]
    torch.testing.assert_close(weights, torch.tensor([1.0, -8.0, 8.0, -1.0]) / 1.2)
    weights = regression_weights(four_nodes(back, ahead, 0.1))[:, 0]
    torch.testing.assert_close(weights, torch.tensor([-2.0, -1.0, 1.0, 2.0]))  # x / sum of squares, 0.1


def test_r_is_left_as_it_is_where_it_does_not_move():
    t, r = torch.tensor([0.3, 0.7]), torch.tensor([0.3 - 1e-7, 0.2])
    asked = Derivative(torch.zeros(2, 2), t, r, TANGENTS[0])
    assert query_at(asked, reach(asked)[0]).r is r


# What they are exact for

INSIDE = times((0.5, 0.1), (0.6, 0.3))
ENDS = times((1.0, 0.2), (0.6, 0.59), (0.0, 0.0), (0.3, 0.3), (0.99, 0.98))


def polynomial(degree):
    """A network of ``t + x``, which grows twice as fast as t along the path, and the derivative along it."""

    def network(x, t, r, cond):
        return (x + t[:, None]) ** degree

    def derivative(t):
        return (2 * degree * t ** (degree - 1))[:, None].expand(-1, 2)

    return network, derivative


@pytest.mark.parametrize(
    ("estimator", "degree", "where"),
    [
        (Central(0.05), 2, INSIDE),
        (Central(0.05, order=4), 4, INSIDE),
        (Central(0.05), 1, ENDS),
        (Central(0.05, order=4), 3, ENDS),
        (OneSided(0.05), 1, INSIDE),
        (OneSided(0.05), 1, ENDS),
        (ForwardMode(), 5, INSIDE),
        (ForwardMode(), 5, ENDS),
    ],
)
def test_exact_for_polynomials(estimator, degree, where):
    network, derivative = polynomial(degree)
    t, r = where
    got = estimate(estimator, network, t, r)
    assert_rounded(got, derivative(t), divided_by=0.01)  # the shortest interval that a stencil is squeezed into


@pytest.mark.parametrize(
    ("estimator", "degree"), [(Central(0.05), 3), (Central(0.05, order=4), 5), (OneSided(0.05), 2)]
)
def test_and_not_beyond(estimator, degree):
    network, derivative = polynomial(degree)
    t, r = INSIDE
    assert ((estimate(estimator, network, t, r) - derivative(t)).abs() > 1e-6).all()


@pytest.mark.parametrize(
    ("estimators", "order"),
    [
        ((Central(0.04), Central(0.02)), 2),
        ((Central(0.04, 4), Central(0.02, 4)), 4),
        ((OneSided(0.04), OneSided(0.02)), 1),
    ],
)
def test_rates(estimators, order):
    def network(x, t, r, cond):
        return (3 * x + t[:, None]).sin()

    t, r = INSIDE
    errors = [(estimate(each, network, t, r) - 4 * t.cos()[:, None]).abs() for each in estimators]
    rates = (errors[0] / errors[1]).log2()
    # the next term of the error is smaller by the step and some derivatives
    torch.testing.assert_close(rates, torch.full_like(rates, order), atol=0.1, rtol=0)


@pytest.mark.parametrize("estimator", [Central(), Central(order=4), OneSided(), Auto(), Auto(evaluations=4)])
def test_no_room_gives_zero(estimator):
    t, r = times((1.0, 1.0))
    assert not estimate(estimator, polynomial(3)[0], t, r).any()


def test_the_difference_along_a_curve():
    t, r = INSIDE
    x = torch.zeros(2, 2, dtype=torch.float64)
    asked = Derivative(
        x, t, r, Tangent(torch.ones_like(x)), curve=lambda offset: offset[:, None].expand(2, 2) + offset[:, None] ** 2
    )

    def queries():
        return (yield [asked])

    (answer,) = Engine({"student": lambda x, t, r, cond: x}, estimator=Central(0.1)).run(queries())
    torch.testing.assert_close(answer.value(), torch.ones_like(x))


# One evaluation fewer


def test_one_sided_takes_the_prediction_for_its_second_value():
    network, _ = polynomial(2)
    t, r = times((0.5, 0.1), (0.5, 0.49), (0.0, 0.0))
    evaluated = []

    def counted(x, t, r, cond):
        evaluated.append(len(x))
        return network(x, t, r, cond)

    plain = estimate(OneSided(0.05), counted, t, r)
    assert evaluated == [6]
    evaluated.clear()
    trick = estimate(OneSided(0.05), counted, t, r, at_prediction=True)
    assert evaluated[0] == 3
    torch.testing.assert_close(trick, plain)
    evaluated.clear()
    null = estimate(OneSided(0.05), counted, t, r, at_prediction=True, null=True)
    assert evaluated == [6]
    torch.testing.assert_close(null, plain)


def test_forward_mode_equals_autograd():
    weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def network(x, t, r, cond):
        return torch.tanh(x @ weight + t[:, None] * 2 - r[:, None])

    t, r = INSIDE
    x, v = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    tangent = Tangent(v, 0.7, 0.2)
    _, expected = torch.autograd.functional.jvp(
        lambda x, t, r: network(x, t, r, None), (x, t, r), (v, torch.full_like(t, 0.7), torch.full_like(r, 0.2))
    )
    torch.testing.assert_close(estimate(ForwardMode(), network, t, r, tangent), expected)


@pytest.mark.parametrize("make", [Central, OneSided])
@pytest.mark.parametrize("step", [0.0, -0.1, 0.51, float("nan")])
def test_steps_out_of_range(make, step):
    with pytest.raises(ValueError, match=r"step of a difference must be above 0 and at most 0\.5"):
        make(step)


def test_orders_out_of_range():
    with pytest.raises(ValueError, match=r"order of a central difference must be 2 or 4, got 3"):
        Central(order=3)
    with pytest.raises(ValueError, match=r"at most 0\.25"):
        Central(0.3, order=4)
