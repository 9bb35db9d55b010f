"""The check of derivatives finds the errors that the theory gives, and what they mean."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from rcgm.cli import main
from rcgm.derivatives import Central, OneSided
from rcgm.inspection.derivatives import NOISE_LIMIT, check_derivatives
from rcgm.inspection.derivatives.text import report_lines
from rcgm.inspection.derivatives.truth import extrapolated
from rcgm.networks import NETWORKS
from rcgm.objectives import RCGM, MeanFlow
from rcgm.roles import lora_role
from tests.support.small_dit import drawn
from tests.support.tiny_networks import FAMILIES

EPS = torch.finfo(torch.float32).eps


class Exponential(nn.Module):
    """``F = g exp(k t)``: ``dF/dt = k F``, and its third derivative along every path is ``k^3 F``."""

    def __init__(self, rate: float = 3.0) -> None:
        super().__init__()
        self.rate = rate
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, t, r, cond=None):
        return (self.gain * (self.rate * t).exp())[:, None].expand_as(x)


class WithoutForwardMode(torch.autograd.Function):
    """The exponential, with no rule for forward mode."""

    @staticmethod
    def forward(ctx, value):
        return value.exp()


class Opaque(Exponential):
    def forward(self, x, t, r, cond=None):
        return (self.gain * WithoutForwardMode.apply(self.rate * t))[:, None].expand_as(x)


class Detached(Exponential):
    """Forward mode gives 0 here, and no error."""

    def forward(self, x, t, r, cond=None):
        return super().forward(x, t.detach(), r.detach(), cond)


class Overflowing(nn.Module):
    """Its hidden value, 2e5 t, is not finite in float16 from t = 0.33 on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
        for layer, value in zip(self.layers, (2e5, 1e-5), strict=True):
            nn.init.constant_(layer.weight, value)

    def forward(self, x, t, r, cond=None):
        return self.layers[1](self.layers[0](t[:, None].to(self.layers[0].weight.dtype))).expand(x.shape)


def data(samples: int = 32, *shape: int) -> torch.Tensor:
    return torch.randn(samples, *(shape or (2,)), generator=torch.Generator().manual_seed(0))


def row(report, estimator, number_format: int = 0):
    return next(row for row in report.formats[number_format].derivatives if row.estimator == estimator)


@pytest.mark.parametrize("step", [0.005, 0.02])
def test_the_error_of_a_step_is_that_of_the_theory(step):
    """``sinh(k e)/(k e) - 1`` for whole central differences, ``(1 - exp(-k e))/(k e) - 1`` for those behind."""
    rate = 3.0
    report = check_derivatives(Exponential(rate), data(), steps=(step,), ranges=2)
    whole = math.sinh(rate * step) / (rate * step) - 1
    behind = 1 - (1 - math.exp(-rate * step)) / (rate * step)
    # values up to exp(k), rounded twice each, and times whose rounding is a part of the step
    rounding = 4 * EPS * (1 + 1 / (rate * step))
    found = row(report, Central(step))
    assert found.median == pytest.approx((whole, whole), abs=rounding)
    assert row(report, OneSided(step)).median == pytest.approx((behind, behind), abs=rounding)
    # near the ends a step is cut, and the error is then at most that of the one-sided difference
    assert max(found.worst) <= behind + rounding
    assert report.method == "forward-mode AD in float64"
    assert found.allowances["any"].limited_by == "the step"


def test_rounding_is_told_apart_from_the_step():
    """bfloat16 has 2^16 times the rounding of float32: at a small step it is all of the error."""
    network = drawn()
    report = check_derivatives(
        network, data(16, 3, 4, 6), torch.arange(16) % 5, formats=("float32", "bfloat16"), ranges=2, steps=(0.002,),
        gaps=(0.01, 0.1), ratios=(0.5,),
    )  # fmt: skip
    exact, rough = (row(report, Central(0.002), index) for index in (0, 1))
    assert max(exact.median) < 0.01
    assert min(rough.median) > 10 * max(exact.median)
    assert exact.allowances["any"].truncation == rough.allowances["any"].truncation
    assert max(rough.allowances["any"].rounding) > 100 * max(exact.allowances["any"].rounding)
    few, many = ({(gap.kind, gap.value): gap.allowance.used for gap in found.differences} for found in report.formats)
    assert all(many[key] > 100 * few[key] for key in few)
    # rounding is divided by the gap
    assert 3 < many["rcgm, order 2", 0.01] / many["rcgm, order 2", 0.1] < 30
    assert 3 < many["consistency", 0.01] / many["consistency", 0.1] < 30


def test_a_constant_shift_of_the_weights_is_no_rounding_of_differences():
    """The network is constant but for its time: in bfloat16 the same constant is wrong everywhere, and cancels."""

    class Shifted(Exponential):
        def forward(self, x, t, r, cond=None):
            off = 0.01 if torch.is_autocast_enabled("cpu") else 0.0
            return super().forward(x, t, r, cond) + off

    report = check_derivatives(
        Shifted(1.0), data(), formats=("bfloat16",), ranges=1, steps=(0.01,), gaps=(0.01,), ratios=(0.5,)
    )
    gap = next(row for row in report.formats[0].differences if row.kind == "consistency")
    # (t 0.01 - (t - dt) 0.01)/dt = 0.01
    assert gap.allowance.used * NOISE_LIMIT * report.noise[0] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("network", "reason"), [(Opaque(), "jvp"), (Detached(), "do not agree in 32 of 32 samples")])
def test_extrapolation_stands_in_for_forward_mode(network, reason):
    report = check_derivatives(network, data(), ranges=2, steps=(0.01,))
    assert report.method == "Richardson extrapolation of central differences in float64"
    assert reason in report.reason
    assert report.uncertainty < 1e-8
    expected = check_derivatives(Exponential(), data(), ranges=2, steps=(0.01,))
    ours, theirs = row(report, Central(0.01)), row(expected, Central(0.01))
    assert ours.median == pytest.approx(theirs.median, rel=1e-3)
    text = "\n".join(report_lines(report))
    assert "Richardson" in text
    if isinstance(network, Opaque):
        assert [type(estimator).__name__ for estimator, _ in report.formats[0].missing] == ["ForwardMode"]
        assert "ForwardMode: derivative jvp does not work" in text
    else:
        wrong = next(row for row in report.formats[0].derivatives if row.kind == "jvp")
        assert wrong.median == pytest.approx((1.0, 1.0))
        assert not wrong.allowances["any"].safe


def test_extrapolation_takes_each_sample_its_own_step():
    rates = torch.tensor([0.5, 40.0, 2000.0], dtype=torch.float64)
    room = torch.tensor([0.3, 0.04, 0.2], dtype=torch.float64)
    found, error = extrapolated(lambda offset: (rates * (0.3 + offset)).sin()[:, None], room)
    exact = (rates * (rates * 0.3).cos())[:, None]
    wrong = ((found - exact) / exact).abs()[:, 0]
    assert wrong.max() < 1e-8
    assert (error / exact[:, 0].abs()).max() < 1e-6


def test_estimates_that_are_not_finite_are_counted_and_not_safe():
    report = check_derivatives(Overflowing(), data(16, 1), formats=("float16",), ranges=2, steps=(0.01,), ratios=(0.5,))
    found = row(report, Central(0.01))
    assert found.not_finite[1] == 8  # all of t above 0.5
    assert found.worst[1] == math.inf
    assert not found.allowances["any"].safe
    assert "estimates are not finite" in "\n".join(report_lines(report))
    json.dumps(report.plain(), allow_nan=False)


def test_the_objective_of_the_configuration_is_judged():
    report = check_derivatives(
        Exponential(), data(), ranges=2, steps=(0.02,), gaps=(0.1,), ratios=(0.5,), objective=RCGM(order=3, dt=0.03)
    )
    assert "this configuration (rcgm, order 3, dt 0.03): safe" in "\n".join(
        report_lines(report, RCGM(order=3, dt=0.03))
    )
    own = MeanFlow(derivative=Central(0.3))
    report = check_derivatives(Exponential(5.0), data(), ranges=2, steps=(0.02,), objective=own)
    assert "this configuration (mean_flow, central 0.3): NOT safe" in "\n".join(report_lines(report, own))


@pytest.mark.parametrize("name", ["sana", "qwen_image"])
def test_published_networks_and_roles(name):
    family = FAMILIES[name]
    network = NETWORKS[name](family.build())
    x, cond = data(4, *family.latents), family.cond(4)
    report = check_derivatives(network, x, cond, ranges=1, steps=(0.0001, 0.01), gaps=(0.01,), ratios=(0.5,))
    # sinusoids of 1000 t turn by 10 radians over 0.01
    assert row(report, Central(0.01)).median[0] > 0.3
    assert row(report, Central(0.0001)).median[0] < 0.05
    role = lora_role(network, rank=2)
    same = check_derivatives(role, x, cond, ranges=1, steps=(0.0001, 0.01), gaps=(0.01,), ratios=(0.5,))
    # an adapter that is 0 leaves the network what it is, to rounding, which the step divides
    assert row(same, Central(0.01)).median == pytest.approx(row(report, Central(0.01)).median, abs=100 * EPS)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}  # the copy was converted alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ("int8",)}, "formats must be one of float32, tf32, bfloat16, float16, got 'int8'"),
        ({"formats": ("tf32",)}, "formats must be without tf32 on cpu"),
        ({"steps": (0.0,)}, "steps of a difference must be above 0"),
        ({"ranges": 3}, "x must hold a multiple of 6 samples, 2 for each range of t, got 32"),
        ({"cond": torch.zeros(3)}, "cond must have a leading dimension of 32"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_derivatives(Exponential(), data(), **arguments)


def test_a_network_without_a_derivative_is_refused():
    network = Exponential()
    nn.init.zeros_(network.gain)
    with pytest.raises(ValueError, match="network must change along the path, got a derivative of 0 everywhere"):
        check_derivatives(network, data(), ranges=2)
    nn.init.constant_(network.gain, math.nan)
    with pytest.raises(ValueError, match=r"must have a finite derivative, got none for t from 0 to 0\.5"):
        check_derivatives(network, data(), ranges=2)


CONFIG = """
steps: 2
batch_size: 8
data: {name: two_moons, size: 100}
model: {name: mlp, width: 8, depth: 1}
objective: {name: mean_flow}
optimizer: {lr: 1.0e-2}
logging: {tensorboard: false}
sample: {every: 0}
evaluate: {at_end: false}
"""


def test_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["derivatives", "--help"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--run", "--formats", "--steps", "--json", "--plot", "example:"))


def test_the_command(tmp_path, capsys):
    config, run = tmp_path / "moons.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    assert main(["derivatives", str(config)]) == 2
    assert "got a derivative of 0 everywhere" in capsys.readouterr().err
    assert main(["train", str(config), "--output", str(run)]) == 0
    words = ["precision=bfloat16", "--steps", "0.005,0.05", "--ranges", "2", "--count", "4"]
    files = ["--json", str(tmp_path / "errors.json"), "--plot", str(tmp_path / "errors.png")]
    capsys.readouterr()
    assert main(["derivatives", "--run", str(run), *words, *files]) == 0
    shown = capsys.readouterr().out
    assert "bfloat16: relative error of dF/dt, median (worst)" in shown
    assert "this configuration (mean_flow, central 0.005)" in shown
    found = json.loads((tmp_path / "errors.json").read_text())
    assert set(found["formats"]) == {"bfloat16"}
    assert found["ranges"] == [[0.0, 0.5], [0.5, 1.0]]
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the file of a configuration, or --run"),
        (["a.yaml", "--run", "b"], "give a configuration or --run, not both"),
        (["a.yaml", "--count", "3"], "--count must be even, got 3"),
        (["a.yaml", "--plot", "errors.pdf"], "--plot must end in .png"),
        (["a.yaml"], "no configuration file 'a.yaml'"),
        (["--run", "nowhere"], "no run folder 'nowhere'"),
    ],
)
def test_words_that_do_not_fit_together(words, message, capsys):
    assert main(["derivatives", *words]) == 2
    assert message in capsys.readouterr().err
