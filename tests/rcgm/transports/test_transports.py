"""Every transport: its closed forms are what its four functions say."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcgm.models import ReversedTime
from rcgm.transports import EDM, TRANSPORTS, VE, VP, Linear, ReversedLinear, Transport, TrigFlow, TrigLinear
from tests.support.rounding import assert_rounded, rounding_bound

QUARTER = math.pi / 2
ALL = [make() for make in TRANSPORTS.values()]
each = pytest.mark.parametrize("transport", ALL, ids=list(TRANSPORTS))


class Users(Transport):
    """A transport as a user adds one: four functions."""

    def __init__(self, like: Transport) -> None:
        self.alpha, self.gamma = like.alpha, like.gamma
        self.alpha_hat, self.gamma_hat = like.alpha_hat, like.gamma_hat

    alpha = gamma = alpha_hat = gamma_hat = None  # those of the instance


def times(dtype=torch.float64):
    t = torch.tensor([1.0, 0.9, 0.5, 0.5, 0.3, 0.02, 0.7], dtype=dtype)
    r = torch.tensor([0.0, 0.1, 0.5, 0.499, 0.0, 0.01, 0.69], dtype=dtype)
    return t, r


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 7, 2, 3, generator=generator, dtype=torch.float64).unbind(0)


def column(values):
    return values[:, None, None]


@dataclass(frozen=True)
class Power(Transport):
    """Another of a user's: ``t^power`` of noise, with a prediction whose coefficients turn."""

    power: float = 2.0

    def alpha(self, t):
        return t**self.power

    def gamma(self, t):
        return 1 - t**self.power

    def alpha_hat(self, t):
        return torch.cos(t)

    def gamma_hat(self, t):
        return -torch.exp(-t)


def test_registry():
    assert set(TRANSPORTS) == {"linear", "reversed_linear", "trigflow", "triglinear", "edm", "vp", "ve"}
    for make in TRANSPORTS.values():
        assert make() == make()
        with pytest.raises(FrozenInstanceError):
            make().alpha = None


@each
def test_closed_forms_are_those_of_the_four_functions(transport):
    plain, (t, r) = Users(transport), times()
    smallest = transport.determinant(t).abs().min().item()
    for name in ("alpha_derivative", "gamma_derivative", "alpha_hat_derivative", "gamma_hat_derivative", "determinant"):
        assert_rounded(getattr(transport, name)(t), getattr(plain, name)(t))
    for name, arguments in (("step", (t, r)), ("step_derivative", (t, r)), ("velocity_coefficients", (t,))):
        closed, general = (getattr(made, name)(*arguments) for made in (transport, plain))
        if name == "step_derivative":
            closed, general = (closed,), (general,)
        for one, other in zip(closed, general, strict=True):
            assert_rounded(one, other, divided_by=smallest)


@each
def test_path_is_built_from_data_and_noise(transport):
    (x, z), (t, _) = pair(), times()
    x_t, velocity, target = transport.path(x, z, t)
    torch.testing.assert_close(x_t, column(transport.alpha(t)) * z + column(transport.gamma(t)) * x)
    torch.testing.assert_close(
        velocity, column(transport.alpha_derivative(t)) * z + column(transport.gamma_derivative(t)) * x
    )
    torch.testing.assert_close(target, column(transport.alpha_hat(t)) * z + column(transport.gamma_hat(t)) * x)
    torch.testing.assert_close(transport.points(x, z, t[None])[0], x_t)


@each
def test_the_order_zero_target_leads_along_the_path(transport):
    (x, z), (t, r) = pair(), times()
    x_t, velocity, target = transport.path(x, z, t)
    x_r = transport.points(x, z, r[None])[0]
    smallest = transport.determinant(t).abs().min().item()
    assert_rounded(transport.move(x_t, target, t, r), x_r, divided_by=smallest)
    assert_rounded(transport.velocity(x_t, target, t), velocity, divided_by=smallest)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*ALL, Power(), Power(0.5)]),
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_steps_join_the_data_and_noise_that_a_prediction_stands_for(transport, three, x_t, prediction):
    t, s, r = (torch.tensor([time], dtype=torch.float64) for time in sorted(three, reverse=True))
    determinant = transport.alpha(t) * transport.gamma_hat(t) - transport.alpha_hat(t) * transport.gamma(t)
    data = (transport.alpha(t) * prediction - transport.alpha_hat(t) * x_t) / determinant
    noise = (transport.gamma_hat(t) * x_t - transport.gamma(t) * prediction) / determinant
    scale = 1 + (transport.alpha(t) * noise).abs().item() + data.abs().item()  # of what cancels in x_t and x_r
    smallest = min(1.0, *(transport.determinant(time).abs().item() for time in (t, s)))
    bound = {"rtol": 0, "atol": rounding_bound(size=scale, divided_by=smallest)}

    carried, moved = transport.step(t, r)
    x_r = transport.gamma(r) * data + transport.alpha(r) * noise
    torch.testing.assert_close(carried * x_t + moved * prediction, x_r, **bound)

    # by way of s, where the same data and noise are another prediction
    carried, moved = transport.step(t, s)
    x_s = carried * x_t + moved * prediction
    carried, moved = transport.step(s, r)
    at_s = transport.alpha_hat(s) * noise + transport.gamma_hat(s) * data
    torch.testing.assert_close(carried * x_s + moved * at_s, x_r, **bound)


def test_reversed_linear_is_linear_with_the_other_sign():
    (x, z), (t, r) = pair(), times()
    x_t, velocity, target = Linear().path(x, z, t)
    other = ReversedLinear().path(x, z, t)
    for value, expected in zip(other, (x_t, velocity, -target), strict=True):
        assert torch.equal(value, expected)
    assert torch.equal(ReversedLinear().move(x_t, -target, t, r), Linear().move(x_t, target, t, r))
    assert torch.equal(ReversedLinear().velocity(x_t, -target, t), velocity)


@each
def test_ends_are_data_and_noise(transport):
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert transport.alpha(zero) <= 0.03
    assert transport.gamma(one) <= 0.02 * transport.alpha(one)
    assert (transport.determinant(torch.linspace(0, 1, 101, dtype=torch.float64)).abs() > 1e-3).all()


@each
def test_no_step_from_a_time_to_itself(transport):
    for dtype in (torch.float32, torch.float64):
        t = torch.linspace(0, 1, 101, dtype=dtype)
        carried, moved = transport.step(t, t)
        assert (moved == 0).all()
        torch.testing.assert_close(carried, torch.ones_like(t))


@pytest.mark.parametrize(
    "transport",
    [*ALL, *map(Users, ALL), Power()],
    ids=[*TRANSPORTS, *(f"users_{name}" for name in TRANSPORTS), "power"],
)
@pytest.mark.parametrize("gap", [0.1, 1e-3, 2.0**-20, 2.0**-24])
def test_short_steps_keep_their_digits_in_float32(transport, gap):
    t = torch.linspace(0.1, 1, 1001)
    r = t - gap
    t, r = t[r < t], r[r < t]
    eps = torch.finfo(torch.float32).eps
    exact = transport.step(t.double(), r.double())
    for value, expected in zip(transport.step(t, r), exact, strict=True):
        assert value.dtype == torch.float32
        # some ten roundings of coefficients; those of the carried state may be small beside what they are the sum of
        torch.testing.assert_close(value.double(), expected, rtol=16 * eps, atol=eps if gap == 0.1 else 0)
    edge = transport.step_derivative(t, r).double(), transport.step_derivative(t.double(), r.double())
    torch.testing.assert_close(*edge, rtol=40 * eps, atol=8 * eps)


@each
def test_nothing_is_infinite_where_times_are_drawn(transport):
    t = torch.linspace(1e-6, 1, 1001)
    for name in (
        "alpha",
        "gamma",
        "alpha_derivative",
        "gamma_derivative",
        "alpha_hat_derivative",
        "gamma_hat_derivative",
    ):
        assert getattr(transport, name)(t).isfinite().all()
    for values in (*transport.step(t, t / 2), transport.step_derivative(t, t / 2), *transport.velocity_coefficients(t)):
        assert values.isfinite().all()


def test_vp_at_the_data():
    """The noise grows like sqrt(t): its derivative, that of B and the velocity are infinite at 0, all else is not."""
    zero = torch.zeros(1)
    vp = VP()
    assert (vp.alpha(zero), vp.gamma(zero), vp.gamma_derivative(zero)) == (0, 1, -vp.beta_min / 2)
    assert vp.step(zero, zero) == (1, 0)
    assert vp.alpha_derivative(zero).isinf()
    assert vp.step_derivative(zero, zero).isinf()
    near = torch.tensor([1e-12], dtype=torch.float64)
    # the square root leaves out beta_d t/(4 beta_min), 5e-11 of the value
    torch.testing.assert_close(vp.alpha(near), (vp.beta_min * near).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(vp.step(near, near * 0)[1], -(vp.beta_min * near).sqrt(), rtol=1e-9, atol=0)


def test_table_1_of_tim():
    """B and dB/dt as printed, in the table's own times; TiM's dB/dt and VP's B are misprints (see their classes)."""
    t, r = times()
    h = QUARTER
    assert torch.equal(Linear().step(t, r)[1], r - t)
    assert (Linear().step_derivative(t, r) == -1).all()
    torch.testing.assert_close(TrigFlow().step(t, r)[1], torch.sin(h * (r - t)))
    torch.testing.assert_close(TrigFlow().step_derivative(t, r) / h, -torch.cos(h * (r - t)))
    both = torch.sin(h * t) + torch.cos(h * t)
    torch.testing.assert_close(TrigLinear().step(t, r)[1], torch.sin(h * (r - t)) / both)
    printed = -math.sqrt(2) * torch.sin(h * r + math.pi / 4) / (2 * torch.sin(math.pi * t) + 2)
    torch.testing.assert_close(TrigLinear().step_derivative(t, r), math.pi * printed)
    sigma, sigma_r = VE().alpha(t), VE().alpha(r)
    torch.testing.assert_close(VE().step(t, r)[1], sigma - sigma_r)
    torch.testing.assert_close(VE().step_derivative(t, r) / VE().alpha_derivative(t), torch.ones_like(t))
    beta, beta_r = VP().alpha(t) / VP().gamma(t), VP().alpha(r) / VP().gamma(r)
    torch.testing.assert_close(VP().step(t, r)[1], VP().gamma(r) * (beta_r - beta))


def test_edm_is_that_of_ucgm():
    t, _ = times()
    sigma = torch.exp(4 * (2.68 * t - 1.59))
    root = (sigma**2 + 0.25).sqrt()
    edm = EDM()
    for name, expected in (("alpha", sigma), ("gamma", 1), ("alpha_hat", -0.5), ("gamma_hat", 2 * sigma)):
        torch.testing.assert_close(getattr(edm, name)(t), expected / root)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDM(0), "sigma_data must be a finite number > 0, got 0"),
        (lambda: VE(1, 1), "0 < sigma_min < sigma_max, got 1 and 1"),
        (lambda: VE(0, 1), "0 < sigma_min"),
        (lambda: VP(beta_min=math.inf), "beta_min must be a finite number > 0, got inf"),
        (lambda: VP(beta_d=0), "beta_d must be a finite number > 0, got 0"),
        (lambda: VP(beta_d=200.0), "beta_min must be at most 80, got beta_d, beta_min 200.0 and 0.1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_derivatives_by_autograd_need_no_gradient_mode():
    t = torch.tensor([0.2, 0.8])
    with torch.no_grad():
        derivative = Users(TrigFlow()).alpha_derivative(t)
    assert not derivative.requires_grad
    torch.testing.assert_close(derivative, TrigFlow().alpha_derivative(t))
    with torch.inference_mode():
        inside = torch.tensor([0.2, 0.8])
        torch.testing.assert_close(Users(TrigFlow()).alpha_derivative(inside), TrigFlow().alpha_derivative(inside))
        t, r = times()
        torch.testing.assert_close(Users(Linear()).step_derivative(t, r), Linear().step_derivative(t, r))
    assert (Users(Linear()).alpha_hat_derivative(t) == 0).all()


def test_a_network_with_its_time_reversed_predicts_the_velocity_of_the_linear_transport():
    """What the pages of both say: ``ReversedTime`` turns the sign too, so that what is in it goes with ``Linear``."""
    t, r = torch.tensor([0.3, 0.8]), torch.tensor([0.1, 0.5])
    x, z = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    seen = []

    def from_noise_to_data(state, u, s, cond):
        seen.append((u, s))
        return x - z

    prediction = ReversedTime(from_noise_to_data)(x, t, r)
    torch.testing.assert_close(seen[0], (1 - t, 1 - r))
    _, velocity, target = Linear().path(x, z, t)
    torch.testing.assert_close(prediction, velocity)
    torch.testing.assert_close(prediction, target)
    # without the time, the prediction of the reversed transport
    torch.testing.assert_close(from_noise_to_data(x, t, r, None), ReversedLinear().path(x, z, t)[2])
    assert "takes :class:`Linear`" in ReversedLinear.__doc__
