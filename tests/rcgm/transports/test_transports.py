"""Every transport: its closed forms are what its four functions say."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm.transports import EDM, TRANSPORTS, VE, VP, Linear, Transport, TrigFlow, TrigLinear

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


@each
def test_closed_forms_are_those_of_the_four_functions(transport):
    plain, (t, r) = Users(transport), times()
    for name in ("alpha_slope", "gamma_slope", "alpha_hat_slope", "gamma_hat_slope", "determinant"):
        torch.testing.assert_close(getattr(transport, name)(t), getattr(plain, name)(t), rtol=1e-9, atol=1e-12)
    for name, arguments in (("step", (t, r)), ("step_slope", (t, r)), ("velocity_coefficients", (t,))):
        torch.testing.assert_close(
            getattr(transport, name)(*arguments), getattr(plain, name)(*arguments), rtol=1e-9, atol=1e-11
        )


@each
def test_path_is_built_from_data_and_noise(transport):
    (x, z), (t, _) = pair(), times()
    x_t, velocity, target = transport.path(x, z, t)
    torch.testing.assert_close(x_t, column(transport.alpha(t)) * z + column(transport.gamma(t)) * x)
    torch.testing.assert_close(velocity, column(transport.alpha_slope(t)) * z + column(transport.gamma_slope(t)) * x)
    torch.testing.assert_close(target, column(transport.alpha_hat(t)) * z + column(transport.gamma_hat(t)) * x)
    torch.testing.assert_close(transport.points(x, z, t[None])[0], x_t)


@each
def test_the_order_zero_target_leads_along_the_path(transport):
    (x, z), (t, r) = pair(), times()
    x_t, velocity, target = transport.path(x, z, t)
    x_r = transport.points(x, z, r[None])[0]
    torch.testing.assert_close(transport.move(x_t, target, t, r), x_r, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(transport.velocity(x_t, target, t), velocity, rtol=1e-10, atol=1e-10)


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


@each
@pytest.mark.parametrize("gap", [0.1, 1e-3, 2.0**-20])
def test_short_steps_keep_their_digits_in_float32(transport, gap):
    t = torch.linspace(0.05, 1, 64)
    r = t - gap
    _, moved = transport.step(t, r)
    _, exact = transport.step(t.double(), r.double())
    assert ((moved.double() - exact) / exact).abs().max() < 2e-5


@each
def test_nothing_is_infinite_where_times_are_drawn(transport):
    t = torch.linspace(1e-6, 1, 1001)
    for name in ("alpha", "gamma", "alpha_slope", "gamma_slope", "alpha_hat_slope", "gamma_hat_slope"):
        assert getattr(transport, name)(t).isfinite().all()
    for values in (*transport.step(t, t / 2), transport.step_slope(t, t / 2), *transport.velocity_coefficients(t)):
        assert values.isfinite().all()


def test_table_1_of_tim():
    """B and dB/dt as printed, in the table's own times; TiM's dB/dt and VP's B are misprints (see their classes)."""
    t, r = times()
    h = QUARTER
    assert torch.equal(Linear().step(t, r)[1], r - t)
    assert (Linear().step_slope(t, r) == -1).all()
    torch.testing.assert_close(TrigFlow().step(t, r)[1], torch.sin(h * (r - t)))
    torch.testing.assert_close(TrigFlow().step_slope(t, r) / h, -torch.cos(h * (r - t)))
    both = torch.sin(h * t) + torch.cos(h * t)
    torch.testing.assert_close(TrigLinear().step(t, r)[1], torch.sin(h * (r - t)) / both)
    printed = -math.sqrt(2) * torch.sin(h * r + math.pi / 4) / (2 * torch.sin(math.pi * t) + 2)
    torch.testing.assert_close(TrigLinear().step_slope(t, r), math.pi * printed)
    sigma, sigma_r = VE().alpha(t), VE().alpha(r)
    torch.testing.assert_close(VE().step(t, r)[1], sigma - sigma_r)
    torch.testing.assert_close(VE().step_slope(t, r) / VE().alpha_slope(t), torch.ones_like(t))
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
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_slopes_by_autograd_need_no_gradient_mode():
    t = torch.tensor([0.2, 0.8])
    with torch.no_grad():
        slope = Users(TrigFlow()).alpha_slope(t)
    assert not slope.requires_grad
    torch.testing.assert_close(slope, TrigFlow().alpha_slope(t))
    with torch.inference_mode(False):
        assert (Users(Linear()).alpha_hat_slope(t) == 0).all()
