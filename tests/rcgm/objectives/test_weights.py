"""Weights of the samples as functions of their times, in every objective and by name in a configuration."""

import math
from dataclasses import replace

import pytest
import torch

from rcgm.config import ConfigError, build_objective_from, parse_config
from rcgm.derivatives import Auto
from rcgm.objectives import (
    DECM,
    FACM,
    OBJECTIVES,
    RCGM,
    SAMPLE_WEIGHTS,
    SCM,
    UCGM,
    BellWeight,
    CosineWeight,
    FlowMatching,
    IntervalWeight,
    MeanFlow,
    RootWeight,
    SampleWeight,
    TangentWeight,
    TiM,
)
from rcgm_kernels import Metric
from tests.support.plain import Smooth, batch
from tests.support.rounding import assert_rounded

T = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0, 1.0])
R = torch.tensor([0.0, 0.3, 0.2, 0.1, 0.0, 1.0])


def parse(objective):
    values = {"steps": 1, "batch_size": 4, "data": {"name": "two_moons"}, "model": {"name": "mlp"}}
    return build_objective_from(parse_config({**values, "objective": objective}))


@pytest.mark.parametrize("name", SAMPLE_WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_weight_is_finite_and_of_the_form_of_the_times(name, dtype):
    grid = torch.linspace(0, 1, 33, dtype=dtype)
    t, r = (values.flatten() for values in torch.meshgrid(grid, grid, indexing="ij"))
    t, r = torch.maximum(t, r), torch.minimum(t, r)
    weight = SAMPLE_WEIGHTS[name]()(t, r)
    assert (weight.shape, weight.dtype) == (t.shape, dtype)
    assert bool((weight.isfinite() & (weight >= 0)).all())


def test_their_formulas():
    t, r = T.double(), R.double()
    torch.testing.assert_close(CosineWeight()(t, r), torch.cos(math.pi / 2 * t).clamp(min=0))
    torch.testing.assert_close(TangentWeight()(t, r), torch.tan((1 - (t.abs() - r.abs())) * math.pi / 2.5) + 1)
    grid = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    for weight, shape in (
        (RootWeight(), lambda t: t * (1 - t).sqrt()),
        (BellWeight(), lambda t: (torch.exp(-2 * (t - 0.5) ** 2) - math.exp(-0.5)).clamp(min=0)),
    ):
        torch.testing.assert_close(weight(t, r), shape(t) * 1000 / shape(grid).sum())
    shifted = 3 * grid / (1 + 2 * grid)
    assert RootWeight(shift=3.0)(shifted, shifted).mean().item() == pytest.approx(1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_a_function_of_its_times(name):
    """Twice the weight in all samples is twice the loss and gradient; a weight of 0 in all of them is none."""
    (x, _), plain = batch(), OBJECTIVES[name](sample_weight=None, **({"every": 1} if name == "decm" else {}))
    results = []
    for weight in (None, lambda t, r: torch.full_like(t, 2.0), lambda t, r: torch.zeros_like(t)):
        student = Smooth(1)
        objective = replace(plain, sample_weight=weight)
        out = objective(student, x, generator=torch.Generator().manual_seed(0))
        out.loss.backward()
        results.append((out.loss.detach(), student.inner.grad))
    (once, gradient), (twice, double), (none, nothing) = results
    assert_rounded(twice, 2 * once)
    assert_rounded(double, 2 * gradient)
    assert none == 0
    assert not nothing.any()


def test_each_sample_has_the_weight_of_its_own_times():
    (x, _), student = batch(), Smooth(1)
    weight = TangentWeight()
    plain, weighted = (
        RCGM(sample_weight=choice)(student, x, generator=torch.Generator().manual_seed(0)) for choice in (None, weight)
    )
    # the weights are float32
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(weighted.losses, weight(plain.t, plain.r) * plain.losses, rtol=10 * eps, atol=0)


@pytest.mark.parametrize("name", SAMPLE_WEIGHTS)
def test_a_configuration_names_it(name):
    objective = parse({"name": "rcgm", "sample_weight": name})
    assert objective.sample_weight == SAMPLE_WEIGHTS[name]()
    assert isinstance(objective.sample_weight, SampleWeight)


def test_a_configuration_sets_its_parameters():
    objective = parse({"name": "tim", "sample_weight": {"power": 1.0}})
    assert objective.sample_weight == IntervalWeight(power=1.0)
    assert parse({"name": "tim", "sample_weight": None}).sample_weight is None
    assert parse({"name": "tim", "sample_weight": "cosine"}).sample_weight == CosineWeight()
    with pytest.raises(ConfigError, match=r"unknown name 'cosin' \(did you mean 'cosine'\?"):
        parse({"name": "tim", "sample_weight": "cosin"})


@pytest.mark.parametrize(
    ("old", "expected", "note"),
    [
        ({"name": "ucgm", "time_weight": "cosine"}, UCGM(), "objective.sample_weight: 'cosine'"),
        ({"name": "ucgm", "time_weight": None}, UCGM(sample_weight=None), "objective.sample_weight: None"),
        (
            {"name": "tim", "interval_weight": {"sigma_data": 0.5, "warp": "odds", "power": 1.0}},
            TiM(sample_weight=IntervalWeight(0.5, "odds", 1.0)),
            "'name': 'interval'",
        ),
        ({"name": "mean_flow", "interval_weight": None}, MeanFlow(), "objective.sample_weight: None"),
        (
            {"name": "scm", "weighting": "inverse_tangent"},
            SCM(sample_weight=SAMPLE_WEIGHTS["inverse_tangent"]()),
            "objective.sample_weight: 'inverse_tangent'",
        ),
        (
            {"name": "mean_flow", "derivative": {"name": "auto", "share": 0.5}},
            MeanFlow(derivative=Auto(fraction=0.5)),
            "objective.derivative.share: 0.5 is written objective.derivative.fraction: 0.5",
        ),
    ],
)
def test_old_keys_are_read_with_a_note(old, expected, note):
    with pytest.warns(FutureWarning, match=note):
        assert parse(old) == expected


def test_an_old_key_beside_its_new_name_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.time_weight is an old name of objective\.sample_weight"):
        parse({"name": "ucgm", "time_weight": "cosine", "sample_weight": None})


def test_bad_weights():
    x, _ = batch()
    with pytest.raises(TypeError, match="sample_weight must be a function of t and r, got str"):
        FlowMatching(sample_weight="cosine")
    for value, got in ((torch.ones(3), r"\[3\]"), (1.0, "float")):
        with pytest.raises(ValueError, match=rf"sample_weight must give a tensor of the shape \[8\], got {got}"):
            FlowMatching(sample_weight=lambda t, r, value=value: value)(Smooth(1), x)
    with pytest.raises(TypeError, match=r"steps must be an int, got 2.5"):
        RootWeight(steps=2.5)
    with pytest.raises(ValueError, match="shift must be a finite number > 0, got 0"):
        BellWeight(shift=0)


# what the constructor knows


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"decm", "facm"}))
def test_a_cosine_term_and_normalisation_are_refused_when_the_configuration_is_read(name):
    with pytest.raises(ConfigError, match="normalize must be None with a cosine term"):
        parse({"name": name, "normalize": 0.1, "metric": {"cosine": 1.0}})


@pytest.mark.parametrize("anchored", [DECM, FACM])
def test_the_parts_of_anchored_objectives_have_them_apart(anchored):
    assert anchored(normalize=0.1).metric.cosine == 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_sum_over_the_elements_is_so_many_means(name):
    (x, _), plain = batch(), replace(OBJECTIVES[name](), metric=Metric(), adaptive=None)
    results = []
    for reduce in ("mean", "sum"):
        student = Smooth(1)
        out = replace(plain, reduce=reduce)(student, x, generator=torch.Generator().manual_seed(0))
        out.loss.backward()
        results.append((out.loss.detach(), student.inner.grad))
    (mean, gradient), (total, larger) = results
    assert_rounded(total, 3 * mean)
    assert_rounded(larger, 3 * gradient)
