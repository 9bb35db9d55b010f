"""The knots of a time grid: ordered, evenly spaced, from ``t`` to ``r`` exactly."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rcgm.objectives.gaps import SMALLEST_GAP
from rcgm.objectives.times import knots
from rcgm_kernels import fused_loss
from tests.support.rounding import rounding_bound


def up(value, steps):
    """The float32 number ``steps`` above ``value``."""
    value = torch.tensor(value, dtype=torch.float32)
    for _ in range(steps):
        value = torch.nextafter(value, torch.tensor(2.0))
    return value.item()


@st.composite
def intervals(draw):
    """Float32 times ``0 <= r <= t <= 1``: anywhere, some float32 numbers apart, or about one gap apart."""
    unit = st.floats(0, 1, width=32)
    dt = draw(st.sampled_from([SMALLEST_GAP, 1e-4, 0.01, 0.1, 1.0]) | st.floats(SMALLEST_GAP, 1))
    r = draw(unit)
    how = draw(st.sampled_from(["anywhere", "near", "a gap apart"]))
    if how == "near":
        t = up(r, draw(st.integers(0, 40)))
    elif how == "a gap apart":
        t = torch.tensor(r + dt * draw(st.sampled_from([0.5, 1.0, 1.0 + 1e-6, 2.0]))).item()
    else:
        t = draw(unit)
    t, r = max(t, r), min(t, r)
    return (t, r, dt) if t <= 1 else (1.0, min(r, 1.0), dt)


NEAR_ZERO = up(0.0, 1)


@settings(max_examples=300, deadline=None)
@given(intervals(), st.integers(0, 30))
@example((0.5, 0.5, 0.01), 2)
@example((up(0.5, 1), 0.5, 0.01), 3)
@example((1.0, 0.0, SMALLEST_GAP), 30)
@example((NEAR_ZERO, 0.0, 1.0), 30)
@example((up(0.75, 3), NEAR_ZERO, SMALLEST_GAP), 29)
def test_knots(interval, order):
    t, r, dt = (torch.tensor([value], dtype=torch.float32) for value in interval)
    dt = interval[2]
    times = knots(t, r, dt, order)
    assert times.shape == (order + 2, 1)
    assert times.dtype == torch.float32
    values = times[:, 0]
    assert values[0] == t
    assert values[-1] == r
    assert bool((values[:-1] >= values[1:]).all())
    if order:
        assert values[1] == torch.maximum(t - dt, r)
        assert (values[0] > values[1]) == (t > r)
        spaced = r.double() + (values[1].double() - r.double()) * torch.arange(order, -1, -1).double() / order
        # The share of the way is below 1, and rounded by eps/4 at most; that of the length, and four roundings besides.
        eps = torch.finfo(torch.float32).eps
        off = eps / 4 * (values[1] - r).item() + torch.finfo(torch.float32).tiny
        torch.testing.assert_close(values[1:].double(), spaced, rtol=2 * eps, atol=off)
    if t == r:
        assert bool((values == t).all())
    # The fused loss checks the order of the knots and divides by the first gap.
    pred = torch.ones(1, 2, requires_grad=True)
    loss = fused_loss(pred, torch.ones(order, 1, 2), torch.ones(1, 2), times)
    assert loss.isfinite()


def test_knots_of_a_batch_are_those_of_each_sample():
    generator = torch.Generator().manual_seed(0)
    # First gaps of which r + (t_1 - r) rounds away from t_1 are among so many.
    t = torch.rand(200_000, generator=generator)
    r = t * torch.rand(200_000, generator=generator)
    times = knots(t, r, 0.01, 2)
    assert torch.equal(times[1], torch.maximum(t - 0.01, r))
    assert torch.equal(times[:, :100], torch.cat([knots(t[i : i + 1], r[i : i + 1], 0.01, 2) for i in range(100)], 1))


def test_knots_keep_float64():
    times = knots(torch.tensor([0.9], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64), 0.2, 3)
    expected = torch.tensor([[0.9], [0.7], [0.5], [0.3], [0.1]], dtype=torch.float64)
    torch.testing.assert_close(times, expected, rtol=0, atol=rounding_bound(roundings=5))
