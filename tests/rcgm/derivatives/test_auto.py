import copy
import dataclasses
import math

import pytest
import torch

from rcgm.derivatives import Auto, Central
from rcgm.derivatives.measurements import Measurements
from rcgm.engine import Engine
from rcgm.engine.queries import Derivative, Tangent
from rcgm.objectives.mean_flow import MeanFlow
from rcgm.objectives.times import Times

SIZE = 256


class Noisy:
    """``sin(k (t + phase))`` in every element, with noise that is each evaluation's own, as rounding is."""

    def __init__(self, noise, frequency=10.0, by_time=0.0, seed=0):
        self.noise, self.frequency, self.by_time = noise, frequency, by_time
        self.generator = torch.Generator().manual_seed(seed)
        self.phase = torch.rand(SIZE, generator=self.generator, dtype=torch.float64)
        self.sizes = []

    def k(self, t):
        return self.frequency * torch.exp(self.by_time * t)

    def __call__(self, x, t, r, cond):
        self.sizes.append(len(x))
        k = self.k(t[:, None])
        clean = torch.sin(k * (t[:, None] + self.phase))
        return clean + self.noise * torch.randn(clean.shape, generator=self.generator, dtype=torch.float64)

    def derivative(self, t):
        k = self.k(t[:, None])
        inner = k * (t[:, None] + self.phase)
        return torch.cos(inner) * (k + self.by_time * inner)


def draw(batch=32, seed=0, inside=True):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    if inside:
        t = 0.3 + 0.4 * t
    return t, t * (0.1 if inside else torch.rand(batch, generator=generator, dtype=torch.float64))


def run(estimator, network, t, r, start=0):
    x = torch.zeros(len(t), SIZE, dtype=torch.float64)
    asked = Derivative(x, t, r, Tangent(torch.zeros_like(x)), start=start)

    def queries():
        return (yield [asked])

    (answer,) = Engine({"student": network}, estimator=estimator).run(queries())
    return answer


def error(estimator, network, t, r):
    value = run(estimator, network, t, r).value()
    return ((value - network.derivative(t)).norm() / network.derivative(t).norm()).item()


def best_fixed(network, t, r, order=2):
    steps = [0.25 / 1.25**i for i in range(26)]
    return min(error(Central(step * 2 / order, order), network, t, r) for step in steps)


CASES = [(1e-2, 3.0), (1e-3, 3.0), (1e-2, 10.0), (1e-4, 10.0), (1e-3, 25.0), (1e-7, 10.0)]


@pytest.mark.parametrize(("noise", "frequency"), CASES)
@pytest.mark.parametrize("evaluations", [2, 4])
def test_near_the_best_fixed_step_from_the_first_call(noise, frequency, evaluations):
    t, r = draw()
    network = Noisy(noise, frequency)
    best = best_fixed(network, t, r)
    estimator = Auto(evaluations)
    assert error(estimator, network, t, r) < 1.5 * best
    best = best_fixed(network, t, r, evaluations)
    assert error(estimator, network, t, r) < 1.5 * best


def test_four_evaluations_beat_two():
    t, r = draw()
    network = Noisy(1e-3, 10.0)
    errors = []
    for evaluations in (2, 4):
        estimator = Auto(evaluations)
        run(estimator, network, t, r)
        errors.append(error(estimator, network, t, r))
    assert errors[1] < 0.5 * errors[0]


def test_steps_by_range_of_time():
    """Where the curvature grows fifty-fold with time, one step for all times is worse."""
    t, r = draw(256, inside=False)
    keep = (t > 0.15) & (t < 0.85) & (t - r > 0.15)
    t, r = t[keep], r[keep]
    network = Noisy(1e-3, 3.0, by_time=2.0)
    errors = {}
    for bins in (1, 8):
        estimator = Auto(bins=bins)
        run(estimator, network, t, r)
        errors[bins] = error(estimator, network, t, r)
    assert errors[8] < 0.9 * errors[1]
    assert errors[8] < best_fixed(network, t, r)


def test_it_follows_a_network_that_changes():
    t, r = draw()
    estimator = Auto(every=8)
    network = Noisy(1e-2, 10.0)
    for _ in range(9):
        run(estimator, network, t, r)
    before = estimator.report()["derivative_step"]
    network.noise = 1e-3
    for _ in range(200):
        run(estimator, network, t, r)
    after = estimator.report()["derivative_step"]
    # the best step goes as the cube root of the noise
    assert math.log10(before / after) == pytest.approx(1 / 3, abs=0.1)
    assert error(estimator, network, t, r) < 1.5 * best_fixed(network, t, r)


# What it costs


def test_when_it_measures_and_what_that_asks():
    t, r = draw(32)
    network = Noisy(1e-3)
    estimator = Auto(every=10)
    levels = len(estimator.memory().steps)
    for _ in range(31):
        run(estimator, network, t, r)
    extra = {call: size - 64 for call, size in enumerate(network.sizes) if size != 64}
    assert extra == {0: 32 * 2 * levels - 64, **dict.fromkeys([1, 2, 4, 8, 10, 20, 30], 4 * 2 * levels)}


@pytest.mark.parametrize("batch", [8, 64, 256])
def test_it_costs_less_than_a_hundredth(batch):
    t, r = draw(batch)
    network, estimator = Noisy(1e-3), Auto()
    estimator.memory().calls = estimator.every
    for _ in range(estimator.every):
        run(estimator, network, t, r)
    extra = sum(network.sizes) - 2 * batch * estimator.every
    five_forwards = 5 * batch * estimator.every
    assert 0 < extra < 0.01 * five_forwards


def test_samples_that_are_left_out_are_not_measured():
    t, r = draw(16)
    network, estimator = Noisy(1e-3), Auto()
    levels = len(estimator.memory().steps)
    answer = run(estimator, network, t, r, start=6).value()
    assert network.sizes == [10 * 2 * levels]
    assert not answer[:6].any()
    run(estimator, network, t, r, start=14)
    assert network.sizes[1:] == [2 * 2 + 2 * 2 * levels]
    calls = estimator.memory().calls
    assert not run(estimator, network, t, r, start=16).value().any()
    assert (len(network.sizes), estimator.memory().calls) == (2, calls)


# Determinism and resumption


def test_the_same_calls_give_the_same_bits():
    values = []
    for _ in range(2):
        network, estimator = Noisy(1e-3), Auto(every=3)
        values.append([run(estimator, network, *draw(seed=call)).value() for call in range(8)])
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_it_resumes_bit_for_bit():
    network, estimator = Noisy(1e-3), Auto(every=3)
    for call in range(5):
        run(estimator, network, *draw(seed=call))
    saved = {name: tensor.clone() for name, tensor in estimator.memory().state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.values())
    resumed, later = Auto(every=3), copy.deepcopy(network.generator.get_state())
    resumed.memory().load_state_dict(saved)
    outcomes = []
    for each in (estimator, resumed):
        network.generator.set_state(later)
        outcomes.append([run(each, network, *draw(seed=call)).value() for call in range(5, 12)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    for name, tensor in estimator.memory().state_dict().items():
        assert torch.equal(tensor, resumed.memory().state_dict()[name])


def test_a_state_of_earlier_versions_is_read():
    network, estimator = Noisy(1e-3), Auto()
    run(estimator, network, *draw())
    state = estimator.memory().state_dict()
    assert state["differences"].any()
    old = {{"differences": "slopes"}.get(name, name): tensor.clone() for name, tensor in state.items()}
    resumed = Auto()
    resumed.memory().load_state_dict(old)
    for name, tensor in state.items():
        assert torch.equal(tensor, resumed.memory().state_dict()[name])


def test_an_objective_keeps_it_in_its_memory_and_reports_it():
    objective = MeanFlow(derivative=Auto())
    memory = objective.memory()
    assert memory["derivative"] is objective.derivative.memory()
    assert not list(memory.parameters())
    assert {"derivative_step", "derivative_noise", "derivative_curvature"} <= set(objective.report())
    x, z = torch.randn(2, 8, SIZE, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.3, 0.9, 8)
    objective(lambda x, t, r, cond: (x * 3).sin() * t[:, None], x, noise=z, times=Times(t, t / 3))
    assert memory.state_dict()["derivative._extra_state"] == 1
    assert objective.report()["derivative_step"] > 0
    # what differs in its settings alone goes on with the same measurements
    assert dataclasses.replace(objective, clip=1.0).memory()["derivative"] is memory["derivative"]


def test_autocast_of_the_training_step_does_not_touch_it():
    steps = []
    for enabled in (False, True):
        network, estimator = Noisy(1e-3), Auto()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(3):
                run(estimator, network, *draw())
        steps.append(estimator.report())
    assert steps[0] == steps[1]


# Ends, and networks that give nothing to measure


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
    assert broken.report()["derivative_step"] == pytest.approx(clean.report()["derivative_step"].item(), rel=0.2)
    assert broken.memory().counts.sum() < clean.memory().counts.sum()


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
        assert found == pytest.approx(expected, rel=0.3), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 3}, "evaluations must be 2 or 4, got 3"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"bins": 0}, "bins must be at least 1, got 0"),
        ({"fraction": 0.0}, "fraction must be above 0"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"largest": 0.6}, "largest of a difference must be above 0"),
        ({"smallest": 0.1}, "smallest of a difference must be above 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Auto(**arguments)
