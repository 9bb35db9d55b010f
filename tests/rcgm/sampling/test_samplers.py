"""Every sampler on the problem with a known answer: exact maps, orders of convergence, marginals."""

from __future__ import annotations

import pytest
import torch

from rcgm.cli import main
from rcgm.config import SampleConfig
from rcgm.sampling import (
    SAMPLERS,
    sample_any_step,
    sample_consistency,
    sample_heun,
    sample_mix,
    sample_ode,
    sample_ucgm,
)
from rcgm.transports import TRANSPORTS
from tests.support.gaussian import problem

each_transport = pytest.mark.parametrize("name", TRANSPORTS)


def noise(count=64, seed=3, dtype=torch.float64):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def exact(gaussian, z):
    """Where the flow takes the state that samplers begin at, as data."""
    one, zero = (torch.full((len(z),), time, dtype=torch.float64) for time in (1.0, 0.0))
    transport = gaussian.transport
    return gaussian.flow(transport.alpha(one)[:, None] * z, one, zero) / transport.gamma(zero)[:, None]


EXACT = {
    "any_step, 1": lambda *given, **more: sample_any_step(*given, steps=1, **more),
    "any_step, 4": lambda *given, **more: sample_any_step(*given, steps=4, **more),
    "consistency, 1": lambda *given, **more: sample_consistency(*given, steps=1, **more),
    "mix, 1": lambda *given, **more: sample_mix(*given, steps=1, **more),
    "mix, jump and consistency": lambda *given, **more: sample_mix(*given, times=[1, 0], flow_steps=0, **more),
    "ucgm, any": lambda *given, **more: sample_ucgm(*given, steps=4, style="any", **more),
    "ucgm, few, 1": lambda *given, **more: sample_ucgm(*given, steps=1, style="few", **more),
}


@each_transport
@pytest.mark.parametrize("sampler", EXACT)
def test_any_step_samplers_follow_the_exact_map(sampler, name):
    gaussian = problem(TRANSPORTS[name]())
    samples = EXACT[sampler](gaussian, noise(), transport=gaussian.transport)
    torch.testing.assert_close(samples, exact(gaussian, noise()), rtol=1e-8, atol=1e-8)


# VE's, VP's and EDM's times are so uneven that even steps are far from small: they are given their schedule's warp.
CONVERGING = {
    "euler": (lambda *given, **more: sample_ode(*given, **more), 1),
    "heun": (lambda *given, **more: sample_heun(*given, **more), 2),
    "ucgm, multi": (lambda *given, **more: sample_ucgm(*given, style="multi", **more), 1),
    "ucgm, multi, 1/3": (SAMPLERS["ucgm_multi"], 2),
    "ucgm, multi, 1/2": (lambda *given, **more: sample_ucgm(*given, style="multi", extrapolation=0.5, **more), 1),
    "ucgm, multi, order 2": (
        lambda *given, **more: sample_ucgm(*given, style="multi", order=2, extrapolation=0.2, **more),
        2,
    ),
}


@pytest.mark.parametrize("name", ["linear", "reversed_linear", "trigflow", "triglinear", "edm"])
@pytest.mark.parametrize("sampler", CONVERGING)
def test_ode_samplers_converge_at_their_order(sampler, name, table):
    run, order = CONVERGING[sampler]
    gaussian = problem(TRANSPORTS[name]())
    errors = [
        (run(gaussian, noise(), steps=steps, transport=gaussian.transport) - exact(gaussian, noise()))
        .abs()
        .max()
        .item()
        for steps in (64, 128)
    ]
    table.append(f"sampler {sampler:<22} {name:<16} 64, 128 steps {errors[0]:9.2e} {errors[1]:9.2e}  order {order}")
    assert 2 ** (order - 0.25) < errors[0] / errors[1] < 2 ** (order + 1)


@each_transport
def test_heun_is_closer_than_euler(name):
    gaussian = problem(TRANSPORTS[name]())
    errors = [
        (run(gaussian, noise(), steps=64, transport=gaussian.transport) - exact(gaussian, noise())).abs().mean()
        for run in (sample_ode, sample_heun)
    ]
    assert errors[1] < 0.5 * errors[0]


STOCHASTIC = {
    "any_step": lambda *given, **more: sample_any_step(*given, steps=4, stochasticity=0.5, **more),
    "consistency": lambda *given, **more: sample_consistency(*given, steps=4, **more),
    "mix": lambda *given, **more: sample_mix(*given, steps=4, flow_steps=1, **more),
    "ucgm": lambda *given, **more: sample_ucgm(*given, steps=4, **more),
}


@pytest.mark.parametrize("name", ["linear", "trigflow", "edm", "ve"])
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_fresh_noise_keeps_the_distribution(sampler, name):
    gaussian = problem(TRANSPORTS[name]())
    if sampler == "ucgm" and name == "ve":
        pytest.skip("UCGM-S takes VE's state at 0 for the data, and its 2% of noise with it")
    samples = STOCHASTIC[sampler](gaussian, noise(20_000), transport=gaussian.transport, generator=generator())
    assert not torch.equal(samples, exact(gaussian, noise(20_000)))
    error = 5 * gaussian.std / 20_000**0.5
    assert ((samples.mean(0) - gaussian.mean).abs() < error + 0.03 * (name == "ve")).all()
    assert ((samples.std(0) / gaussian.std - 1).abs() < 0.03).all()


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_same_generator_same_samples(sampler):
    once, again, other = (STOCHASTIC[sampler](problem(), noise(), generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_one_generator_for_each_sample(sampler):
    """Each sample is what it is alone."""
    together = STOCHASTIC[sampler](problem(), noise(5), generator=[generator(seed) for seed in range(5)])
    alone = [STOCHASTIC[sampler](problem(), noise(5)[i : i + 1], generator=generator(i)) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([generator()], ValueError, "generator must be one or one for each of 64 samples, got 1"),
        ([3] * 64, TypeError, "generator must be a torch.Generator or one for each sample"),
    ],
)
def test_generators_that_do_not_fit(given, error, message):
    with pytest.raises(error, match=message):
        sample_consistency(problem(), noise(), steps=2, generator=given)


def test_guidance_must_be_finite():
    with pytest.raises(ValueError, match="guidance must be a finite number, got nan"):
        sample_consistency(problem(), noise(), guidance=float("nan"))


def test_noise_of_consistency_models_must_be_fresh():
    gaussian = problem()
    samples = sample_ucgm(gaussian, noise(20_000), steps=4, stochasticity=0.0)
    assert (samples.std(0) / gaussian.std > 1.5).all()


def test_sde_noise_of_ucgm_keeps_the_distribution_as_steps_shrink():
    gaussian = problem()
    errors = []
    for steps in (32, 128):
        options = {"style": "multi", "stochasticity": "sde", "generator": generator()}
        samples = sample_ucgm(gaussian, noise(20_000), steps=steps, **options)
        errors.append((samples.std(0) / gaussian.std - 1).abs().max().item())
    assert errors[1] < 0.4 * errors[0] < 0.1


def test_extrapolation_by_hand():
    gaussian, z = problem(), noise()
    samples = sample_ucgm(gaussian, z, steps=3, style="multi", extrapolation=0.5)
    x, pairs = z, []
    for index, (t, after) in enumerate(((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0))):
        time = torch.full((64,), t, dtype=torch.float64)
        velocity = gaussian(x, time, time)
        pairs.append((x - t * velocity, x + (1 - t) * velocity))
        data, own = pairs[-1]
        if index == 2:
            data, own = (now + 0.5 * (now - before) for now, before in zip(pairs[2], pairs[1], strict=True))
        x = (1 - after) * data + after * own
    torch.testing.assert_close(samples, x, rtol=1e-12, atol=1e-12)


class Labels:
    """Predicts its label, and remembers how many rows it was asked for."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, t, r, cond):
        self.rows.append(len(x))
        return cond.to(x.dtype)[:, None].expand_as(x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_in_its_interval_alone(name):
    network, labels = Labels(), torch.arange(64)
    options = {"guidance": 2.0, "null_cond": torch.tensor([1]), "generator": generator()}
    SAMPLERS[name](network, noise(), labels, steps=4, guidance_interval=(0.4, 0.8), **options)
    at_half_and_three_quarters = 4 if name == "heun" else 2  # Heun comes by twice
    assert sum(rows == 128 for rows in network.rows) == at_half_and_three_quarters
    assert network.rows[0] == 64


def test_guidance_by_hand():
    samples = sample_ode(Labels(), noise(), torch.full((64,), 3), steps=2, guidance=2.0, null_cond=torch.tensor([1]))
    torch.testing.assert_close(samples, noise() - (1 + 2.0 * (3 - 1)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectory_and_progress(name):
    seen = []
    states = SAMPLERS[name](
        problem(), noise(), steps=3, trajectory=True, generator=generator(), progress=lambda *at: seen.append(at)
    )
    assert states.shape == (4, 64, 3)
    torch.testing.assert_close(states[0], noise())
    assert torch.equal(states[-1], SAMPLERS[name](problem(), noise(), steps=3, generator=generator()))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_broken_sample_stays_alone(name):
    def network(x, t, r, cond):
        out = problem()(x, t, r)
        out[7] = torch.nan
        return out

    samples = SAMPLERS[name](network, noise(), steps=3, generator=generator())
    assert samples[7].isnan().all()
    assert samples[torch.arange(64) != 7].isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_number_formats(name):
    dtypes = []

    def network(x, t, r, cond):
        dtypes.append({x.dtype, t.dtype, r.dtype})
        return torch.zeros_like(x)

    samples = SAMPLERS[name](network, noise(dtype=torch.float32), steps=2, dtype=torch.float64, generator=generator())
    assert samples.dtype == torch.float64
    assert all(seen == {torch.float32} for seen in dtypes)
    assert SAMPLERS[name](network, noise(dtype=torch.float32), steps=2, generator=generator()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sample_ode(problem(), noise(), order=3), ValueError, "order must be 1 or 2, got 3"),
        (lambda: sample_ucgm(problem(), noise(), style="all"), ValueError, "style must be one of few, any, multi"),
        (lambda: sample_ucgm(problem(), noise(), stochasticity="ode"), ValueError, "from 0 to 1 or 'sde', got 'ode'"),
        (lambda: sample_ucgm(problem(), noise(), order=2, stochasticity=1), ValueError, "order 2 must have"),
        (lambda: sample_ucgm(problem(), noise(), order=2, style="any"), ValueError, "order 2 must have style few or"),
        (lambda: sample_ucgm(problem(), noise(), extrapolation=2), ValueError, "extrapolation must be from 0 to 1"),
        (
            lambda: sample_any_step(problem(), noise(), stochasticity=-1),
            ValueError,
            "stochasticity must be from 0 to 1",
        ),
        (lambda: sample_consistency(problem(), noise(), times=[1, 0.5]), ValueError, "times must end at 0"),
        (lambda: sample_mix(problem(), noise(), steps=2, flow_steps=2), ValueError, "from 0 to 1, got 2"),
        (lambda: sample_ode(problem(), noise(), steps=0), ValueError, "steps must be a whole number >= 1"),
        (lambda: sample_ode(problem(), noise(), dtype=torch.float16), TypeError, "dtype must be torch.float32"),
        (lambda: sample_ode(problem(), noise(), guidance_interval=(1, 0)), ValueError, "guidance_interval must be"),
        (lambda: sample_ode(problem(), noise().half()), TypeError, "noise must be a float32 or float64 tensor"),
        (lambda: sample_ode(problem(), noise(), gudance=2), TypeError, "gudance"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_names_are_those_of_the_command_line_and_the_configuration(capsys):
    names = ["auto", *SAMPLERS]
    for name in names:
        assert SampleConfig(sampler=name).sampler == name
        assert main(["sample", "no-such-run", "--sampler", name]) == 2
        assert "no run folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"must be one of {', '.join(names)}; got 'eulr'"):
        SampleConfig(sampler="eulr")
    with pytest.raises(SystemExit):
        main(["sample", "no-such-run", "--sampler", "eulr"])
    assert "invalid choice: 'eulr'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert ", ".join(names) in " ".join(capsys.readouterr().out.split())
