"""The chosen step at the ends of time, for networks that give nothing to measure, and its fit to a known path."""

import pytest
import torch

from rcgm.derivatives import Auto
from rcgm.derivatives.measurements import Measurements
from tests.support.noisy import SIZE, Noisy, best_fixed, draw, error, run


@pytest.mark.parametrize("evaluations", [2, 4])
def test_safe_at_the_ends_of_time(evaluations):
    t = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.5, 1e-9, 0.999, 0.7], dtype=torch.float64)
    r = torch.tensor([0.0, 0.0, 1.0, 0.5, 0.4999, 0.0, 0.998, 0.1], dtype=torch.float64)
    seen = []

    def network(x, t, r, cond):
        seen.append((t, r))
        return torch.sin(3 * t)[:, None].expand(x.shape)

    estimator = Auto(evaluations)
    exact = 3 * torch.cos(3 * t)[:, None].expand(8, SIZE)
    for _ in range(3):
        value = run(estimator, network, t, r).value()
        assert value.isfinite().all()
        movable = [0, 1, 3, 4, 5, 6, 7]
        # one-sided at the ends, with a step up to 0.01: half of it times the second derivative, 9
        torch.testing.assert_close(value[movable], exact[movable], rtol=0, atol=0.05)
        assert not value[2].any()
    for t, r in seen:
        assert ((r >= 0) & (r <= t) & (t <= 1)).all()


def test_near_an_end_the_step_is_shorter_and_still_good():
    t = torch.full((32,), 0.99, dtype=torch.float64)
    network, estimator = Noisy(1e-3), Auto()
    run(estimator, network, *draw())
    r = torch.full_like(t, 0.1)
    assert error(estimator, network, t, r) < best_fixed(network, t, r) * 1.5


@pytest.mark.parametrize("network", [lambda x, t, r, cond: torch.zeros_like(x), lambda x, t, r, cond: x * torch.nan])
def test_nothing_to_measure(network):
    t, r = draw()
    estimator = Auto()
    for _ in range(3):
        answer = run(estimator, network, t, r)
        assert all(coeff.isfinite().all() for coeff in answer.coeffs)
    assert 0.001 <= estimator.report()["derivative_step"] <= 0.25


def test_a_linear_network_takes_the_largest_step():
    t, r = draw()
    estimator = Auto()
    noisy = Noisy(1e-3)

    def network(x, t, r, cond):
        return t[:, None] + 1e-3 * torch.randn(x.shape, generator=noisy.generator, dtype=torch.float64)

    run(estimator, network, t, r)
    assert estimator.report()["derivative_step"] > 0.1


def test_samples_that_overflow_do_not_count():
    t, r = draw()
    clean, broken = Auto(fraction=1.0), Auto(fraction=1.0)

    def overflowing(x, t, r, cond):
        answer = network(x, t, r, cond)
        answer[t > 0.6] = torch.inf
        return answer

    for estimator, asked in ((clean, None), (broken, overflowing)):
        network = Noisy(1e-3)
        for _ in range(2):
            run(estimator, asked or network, t, r)
    # estimates from other samples of the same noise
    assert broken.report()["derivative_step"] == pytest.approx(clean.report()["derivative_step"].item(), rel=0.2)
    assert broken.state().counts.sum() < clean.state().counts.sum()


def test_the_fit_of_a_known_path():
    """Noise, second, third and fifth coefficients of a polynomial with noise, each elementwise random."""
    generator = torch.Generator().manual_seed(0)
    c2, c3, c5 = (scale * torch.randn(64, SIZE, generator=generator).double() for scale in (2.0, 3.0, 40.0))
    measurements = Measurements(0.25, 9, 4, 0.5)
    steps = measurements.steps[:, None, None]

    def value(s):
        noise = 1e-3 * torch.randn(9, 64, SIZE, generator=generator).double()
        return 1 + 5 * s + c2 * s**2 + c3 * s**3 + c5 * s**5 + noise

    t = torch.linspace(0.3, 0.7, 64)
    measurements.record(t, torch.ones(64), value(-steps), value(steps), torch.ones(64))
    model = measurements.model(t)
    for name, expected in (("noise", 1e-3), ("second", 2.0), ("third", 3.0), ("fifth", 40.0)):
        found = getattr(model, name).mean().sqrt().item()
        assert found == pytest.approx(expected, rel=0.3), name  # estimates; the next terms of the path are in them
