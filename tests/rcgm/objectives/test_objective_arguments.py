import math

import pytest
import torch

from rcgm.objectives import DECM, OBJECTIVES, RCGM, SCM, FlowMatching, Objective
from rcgm.objectives.times import Times
from rcgm_kernels import Metric

X = torch.zeros(4, 3)
LABELS = torch.zeros(4, dtype=torch.long)
NULL = torch.tensor([9])
HALF = torch.full((4,), 0.5)


def untouched(*_):
    raise AssertionError("a network was called before the arguments were checked")


@pytest.mark.parametrize(
    ("objective", "settings", "error", "message"),
    [
        (RCGM, {"order": -1}, ValueError, "order must be at least 0, got -1"),
        (RCGM, {"order": 31}, ValueError, "order must be at most 30, got 31"),
        (RCGM, {"order": 2.0}, TypeError, r"order must be an int, got 2\.0"),
        (RCGM, {"order": True}, TypeError, "order must be an int, got True"),
        (RCGM, {"dt": 0.0}, ValueError, r"dt must be from 1e-06 to 1, got 0\.0"),
        (RCGM, {"dt": 1e-8}, ValueError, "dt must be from 1e-06 to 1, got 1e-08"),
        (RCGM, {"dt": 1.5}, ValueError, r"dt must be from 1e-06 to 1, got 1\.5"),
        (RCGM, {"dt": math.nan}, ValueError, "dt must be from 1e-06 to 1, got nan"),
        (RCGM, {"points": "line"}, ValueError, "points must be one of rollout, jump, interpolant, got 'line'"),
        (RCGM, {"base": "ema"}, ValueError, "base must be one of student, target, again, got 'ema'"),
        (RCGM, {"clip": 0.0}, ValueError, r"clip must be > 0 or None, got 0\.0"),
        (FlowMatching, {"clip": -1.0}, ValueError, r"clip must be > 0 or None, got -1\.0"),
        (RCGM, {"normalize": -0.1}, ValueError, r"normalize must be a finite number >= 0 or None, got -0\.1"),
        (RCGM, {"normalize": math.inf}, ValueError, "normalize must be a finite number >= 0 or None, got inf"),
        (RCGM, {"normalize_scale": 2.0}, ValueError, r"normalize_scale must be None without normalize, got 2\.0"),
        (SCM, {"normalize_scale": math.inf}, ValueError, "normalize_scale must be a finite number or None, got inf"),
        (DECM, {"normalize_scale": 2.0}, ValueError, "normalize_scale must be None without normalize"),
        (RCGM, {"reduce": "max"}, ValueError, "reduce must be one of mean, sum, got 'max'"),
        (SCM, {"metric": Metric(cosine=1.0)}, ValueError, "normalize must be None with a cosine term"),
        (FlowMatching, {"clip": math.nan}, ValueError, "clip must be > 0 or None, got nan"),
        (RCGM, {"label_dropout": 1.1}, ValueError, r"label_dropout must be a probability from 0 to 1, got 1\.1"),
        (
            FlowMatching,
            {"label_dropout": -0.1},
            ValueError,
            "label_dropout must be a probability from 0 to 1, got -0.1",
        ),
    ],
)
def test_bad_settings(objective, settings, error, message):
    with pytest.raises(error, match=message):
        objective(**settings)


@pytest.mark.parametrize("objective", [RCGM(), FlowMatching()], ids=["rcgm", "flow_matching"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"x": LABELS}, TypeError, r"x must be floating point, got torch.int64: scale images to \[-1, 1\]"),
        ({"x": torch.zeros(4)}, ValueError, r"x must have the shape \[B, ...\] with B > 0, got \[4\]"),
        ({"x": torch.zeros(0, 3)}, ValueError, r"x must have the shape \[B, ...\] with B > 0, got \[0, 3\]"),
        ({"cond": LABELS[:3]}, ValueError, r"cond must have a leading dimension of 4, got the shape \[3\]"),
        ({"cond": "label"}, TypeError, "cond must be a tensor, got str"),
        ({"cond": {"a": LABELS[:3]}}, ValueError, r"cond\['a'\] must have a leading dimension of 4"),
        (
            {"cond": LABELS, "null_cond": LABELS[:2]},
            ValueError,
            r"null_cond must have a leading dimension of 4 or 1, got the shape \[2\]",
        ),
        ({"cond": LABELS, "null_cond": {"a": NULL}}, ValueError, "null_cond must have the structure of cond"),
        ({"cond": LABELS, "null_cond": 9}, TypeError, "null_cond must be a tensor, got int"),
        ({"cond": LABELS, "null_cond": NULL[None]}, ValueError, "null_cond must have samples of the shape"),
        ({"noise": torch.zeros(4, 2)}, ValueError, r"noise must have the shape of x, \[4, 3\], got \[4, 2\]"),
        ({"dropped": [True] * 4, "cond": LABELS}, TypeError, "dropped must be a tensor of bool, got list"),
        ({"dropped": torch.ones(4), "cond": LABELS}, TypeError, r"dropped must be a tensor of bool, got torch.float32"),
        (
            {"dropped": torch.ones(3, dtype=torch.bool), "cond": LABELS},
            ValueError,
            r"dropped must have the shape \[4\] on cpu, got \[3\] on cpu",
        ),
        ({"dropped": torch.ones(4, dtype=torch.bool)}, ValueError, "cond must be given with dropped"),
        ({"dropped": torch.ones(4, dtype=torch.bool), "cond": LABELS}, ValueError, "null_cond must be given with"),
        (
            {"times": Times(torch.ones(3), torch.zeros(3))},
            ValueError,
            r"times must have t and r of the shape \[4\], got \[3\] and \[3\]",
        ),
        (
            {"times": Times(torch.ones(4), torch.zeros(4, 1))},
            ValueError,
            r"times must have t and r of the shape \[4\], got \[4\] and \[4, 1\]",
        ),
        ({"times": torch.ones(4)}, TypeError, r"times must be a Times or a pair \(t, r\) of tensors, got Tensor"),
        ({"times": (HALF, 0.0)}, TypeError, "times must have floating-point tensors t and r, got float for r"),
        ({"times": (HALF, LABELS)}, TypeError, r"floating-point tensors t and r, got torch.int64 for r"),
        (
            {"times": Times(torch.tensor([0.5, 0.5, 0.2, 0.5]), torch.full((4,), 0.3))},
            ValueError,
            r"times must have r <= t, got t = 0.2\d* and r = 0.3\d* in sample 2: Times takes t, the later one, first",
        ),
        (
            {"times": (math.pi / 2 * torch.ones(4), torch.zeros(4))},
            ValueError,
            r"times must be from 0 \(data\) to 1 \(noise\) under every transport, got t = 1.57\d* and r = 0.0",
        ),
        ({"times": (HALF, -HALF)}, ValueError, r"times must be from 0 .* got t = 0.5 and r = -0.5 in sample 0"),
        ({"times": (HALF * math.nan, HALF)}, ValueError, "times must be from 0 .* got t = nan and r = 0.5"),
        ({"times": (HALF * math.inf, HALF)}, ValueError, "times must be from 0 .* got t = inf and r = 0.5"),
        (
            {"times": Times(HALF, torch.tensor([0.5, 0.5, 0.1, 0.5]), 3)},
            ValueError,
            "times must have r = t in the first 3 samples, as equal says, got t = 0.5 and r = 0.1\\d* in sample 2",
        ),
        ({"times": Times(HALF, HALF, 5)}, ValueError, "equal of times must be from 0 to 4, got 5"),
        ({"times": Times(HALF, HALF, 2.0)}, TypeError, "equal of times must be a whole number, got 2.0"),
        ({"times": (HALF.to("meta"), HALF.to("meta"))}, ValueError, "times must be on the device of x, cpu, got meta"),
    ],
)
def test_bad_arguments(objective, arguments, error, message):
    given = {"x": X, **arguments}
    with pytest.raises(error, match=message):
        objective(untouched, **given)


def test_generator_of_another_device():
    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="generator must be of the device of x, cpu, got cuda"):
        RCGM()(untouched, X, generator=Elsewhere())


def test_names_of_the_objectives():
    assert (OBJECTIVES["flow_matching"], OBJECTIVES["rcgm"]) == (FlowMatching, RCGM)
    assert all(issubclass(objective, Objective) for objective in OBJECTIVES.values())


def test_an_objective_needs_formulas():
    with pytest.raises(TypeError, match="abstract"):
        Objective()


def test_settings_cannot_change_under_a_run():
    with pytest.raises(AttributeError):
        RCGM().order = 3


def test_times_may_be_a_pair():
    def network(x, t, r, cond):
        return x * t[:, None] + r[:, None]

    x, z = torch.ones(4, 3), torch.zeros(4, 3)
    t, r = torch.tensor([0.9, 0.5, 0.3, 1.0]), torch.tensor([0.1, 0.5, 0.0, 0.0])
    for objective in (RCGM(), SCM()):
        pair, named = (objective(network, x, noise=z, times=times).loss for times in ((t, r), Times(t, r)))
        assert torch.equal(pair, named)
