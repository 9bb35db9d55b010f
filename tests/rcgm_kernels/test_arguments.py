"""What does not fit is refused before any work, by the name of the argument, what it got and what it needs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcgm_kernels import (
    AdaptiveWeight,
    Metric,
    advance,
    ema_update_,
    fused_loss,
    fused_residual_loss,
    interpolate,
)

X, Y = torch.ones(2, 3), torch.ones(2, 3)
T = torch.tensor([0.75, 0.5])
R = torch.tensor([0.25, 0.5])
TIMES = torch.tensor([[0.9, 0.9], [0.8, 0.8], [0.1, 0.1]])
COEFFS = torch.ones(1, 2)
META = torch.ones(2, 3, device="meta")
STORAGE = "float64, float32, float16, bfloat16"


def loss(pred=X, segments=(X,), velocity=X, times=TIMES, **options):
    return fused_loss(pred, segments, velocity, times, **options)


def residual_loss(pred=X, terms=(X,), coeffs=COEFFS, **options):
    return fused_residual_loss(pred, terms, coeffs, **options)


def points(x=X, z=X, alpha=COEFFS, gamma=COEFFS, **options):
    return interpolate(x, z, alpha, gamma, **options)


def step(x=X, velocity=X, t=T, r=R, **options):
    return advance(x, velocity, t, r, **options)


def average(ema=(Y,), params=(X,), decay=0.5, cast_to=None):
    return ema_update_(ema, params, decay, cast_to)


def changed(times: list[list[float]]) -> torch.Tensor:
    """Knots of two samples, given sample by sample."""
    return torch.tensor(times).T


WRONG: list[tuple[Callable[..., object], dict[str, object], type[Exception], str]] = [
    # states
    (loss, {"pred": None}, TypeError, "pred must be a tensor, got NoneType"),
    (loss, {"pred": X.long()}, TypeError, f"pred must be of dtype {STORAGE}, got int64"),
    (loss, {"pred": X.to(torch.float8_e4m3fn)}, TypeError, f"pred must be of dtype {STORAGE}, got float8_e4m3fn"),
    (loss, {"pred": torch.tensor(1.0)}, ValueError, "pred must have a batch dimension, got a scalar tensor"),
    (loss, {"pred": META}, ValueError, "segments[0] must be on meta, got cpu"),
    (loss, {"velocity": 0.5}, TypeError, "velocity must be a tensor, got float"),
    (loss, {"velocity": X.to(torch.complex64)}, TypeError, f"velocity must be of dtype {STORAGE}, got complex64"),
    (loss, {"velocity": X[:1]}, ValueError, "velocity must have the shape [2, 3], got [1, 3]"),
    (loss, {"velocity": META}, ValueError, "velocity must be on cpu, got meta"),
    (loss, {"base": X[0]}, ValueError, "base must have the shape [2, 3], got [3]"),
    (loss, {"base": X.bool()}, TypeError, f"base must be of dtype {STORAGE}, got bool"),
    (loss, {"segments": X}, ValueError, "segments must have the shape [N, 2, 3], got [2, 3]"),
    (loss, {"segments": X[None, :1]}, ValueError, "segments must have the shape [N, 2, 3], got [1, 1, 3]"),
    (loss, {"segments": None}, TypeError, "segments must be a tensor or a sequence of tensors, got NoneType"),
    (loss, {"segments": iter([X])}, TypeError, "segments must be a tensor or a sequence of tensors, got list_iterator"),
    (loss, {"segments": [X.T]}, ValueError, "segments[0] must have the shape [2, 3], got [3, 2]"),
    (loss, {"segments": [META]}, ValueError, "segments[0] must be on cpu, got meta"),
    (residual_loss, {"terms": [X, "x"], "coeffs": torch.ones(2, 2)}, TypeError, "terms[1] must be a tensor, got str"),
    (residual_loss, {"terms": X.int()[None]}, TypeError, f"terms[0] must be of dtype {STORAGE}, got int32"),
    (residual_loss, {"terms": [], "coeffs": COEFFS[:0], "pred_coeff": 0}, ValueError, "terms must not be empty"),
    (
        residual_loss,
        {"terms": [X] * 32, "coeffs": torch.ones(32, 2)},
        ValueError,
        "must be at most 32, got 33",
    ),
    (
        loss,
        {"segments": [X] * 31, "times": torch.linspace(1, 0, 33)[:, None].expand(33, 2)},
        ValueError,
        "must be at most 32, got 33",
    ),
    # scalars
    (loss, {"times": 0.5}, TypeError, "times must be a tensor or a sequence of numbers and tensors, got float"),
    (loss, {"times": [0.9, 0.1]}, ValueError, "times must have 3 entries, got 2"),
    (loss, {"times": [0.9, T, "0.1"]}, TypeError, "times[2] must be a tensor or a number, got str"),
    (loss, {"times": [0.9, T[:1], 0.1]}, ValueError, "times[1] must have the shape [2], got [1]"),
    (loss, {"times": TIMES.long()}, TypeError, f"times must be of dtype {STORAGE}, got int64"),
    (loss, {"times": TIMES[:2]}, ValueError, "times must have the shape [3, 2], got [2, 2]"),
    (loss, {"segments": [X, X]}, ValueError, "times must have the shape [4, 2], got [3, 2]"),
    (loss, {"times": TIMES.T}, ValueError, "times must have the shape [3, 2], got [2, 3]"),
    (loss, {"times": TIMES.to("meta")}, ValueError, "times must be on cpu, got meta"),
    (loss, {"times": changed([[0.9, 0.8, 0.1], [0.5, 0.6, 0.1]])}, ValueError, "sample 1 has [0.5, 0.6"),
    (loss, {"times": changed([[0.9, 0.8, 0.85], [0.5, 0.4, 0.1]])}, ValueError, "times must fall from t_0 to t_{N+1}"),
    (loss, {"times": changed([[0.5, 0.5, 0.25], [0.5, 0.4, 0.1]])}, ValueError, "sample 0 has [0.5, 0.5, 0.25]"),
    (loss, {"times": changed([[0.9, 0.8, 0.1], [0.5, math.nan, 0.1]])}, ValueError, "sample 1 has [0.5, nan"),
    (residual_loss, {"coeffs": COEFFS[0]}, ValueError, "coeffs must have the shape [1, 2], got [2]"),
    (residual_loss, {"coeffs": COEFFS.long()}, TypeError, f"coeffs must be of dtype {STORAGE}, got int64"),
    (residual_loss, {"pred_coeff": "1"}, TypeError, "pred_coeff must be a tensor or a number, got str"),
    (residual_loss, {"pred_coeff": True}, TypeError, "pred_coeff must be a tensor or a number, got bool"),
    (residual_loss, {"coeffs": [True]}, TypeError, "coeffs[0] must be a tensor or a number, got bool"),
    (residual_loss, {"coeffs": [X]}, ValueError, "coeffs[0] must have the shape [2], got [2, 3]"),
    (residual_loss, {"scale": "2"}, TypeError, "scale must be a tensor or a number, got str"),
    (residual_loss, {"scale": X}, ValueError, "scale must have the shape [2], got [2, 3]"),
    (loss, {"weight": torch.ones(3)}, ValueError, "weight must have the shape [2], got [3]"),
    (loss, {"weight": T.bool()}, TypeError, f"weight must be of dtype {STORAGE}, got bool"),
    (loss, {"weight": T.clone().requires_grad_()}, ValueError, 'multiply the losses of reduction="none" by it'),
    (loss, {"times": TIMES.clone().requires_grad_()}, ValueError, "times must not require a gradient"),
    (loss, {"times": [0.9, T.clone().requires_grad_(), 0.1]}, ValueError, "times[1] must not require a gradient"),
    (residual_loss, {"coeffs": COEFFS.clone().requires_grad_()}, ValueError, "coeffs must not require a gradient"),
    (residual_loss, {"scale": T.clone().requires_grad_()}, ValueError, "scale must not require a gradient"),
    (residual_loss, {"pred_coeff": T.clone().requires_grad_()}, ValueError, "pred_coeff must not require a gradient"),
    # options
    (loss, {"clip": 0}, ValueError, "clip must be > 0 or None, got 0"),
    (loss, {"clip": -1.0}, ValueError, "clip must be > 0 or None, got -1.0"),
    (loss, {"clip": math.nan}, ValueError, "clip must be > 0 or None, got nan"),
    (loss, {"clip": "1"}, TypeError, "clip must be a number, got str"),
    (
        loss,
        {"metric": "l1"},
        ValueError,
        "metric must be one of l2, pseudo_huber, barron, barron_reweighting, got 'l1'",
    ),
    (
        loss,
        {"metric": None},
        TypeError,
        "metric must be a name (l2, pseudo_huber, barron, barron_reweighting) or a Metric, got NoneType",
    ),
    (loss, {"adaptive": "1"}, TypeError, "adaptive must be an AdaptiveWeight, a power or None, got str"),
    (loss, {"adaptive": math.inf}, ValueError, "adaptive power must be finite, got inf"),
    (loss, {"reduce": "none"}, ValueError, "reduce must be one of mean, sum, got 'none'"),
    (loss, {"times": changed([[math.inf, 0.8, 0.1], [0.5, 0.4, 0.1]])}, ValueError, "sample 0 has [inf, 0.8"),
    (residual_loss, {"normalize_scale": 2.0}, ValueError, "normalize_scale must be None without normalize"),
    (
        residual_loss,
        {"normalize": 0.1, "normalize_scale": "2"},
        TypeError,
        "normalize_scale must be a tensor or a number",
    ),
    (loss, {"reduction": "max"}, ValueError, "reduction must be one of mean, sum, none, got 'max'"),
    (loss, {"reduction": None}, ValueError, "reduction must be one of mean, sum, none, got None"),
    (residual_loss, {"normalize": -0.1}, ValueError, "normalize must be a finite number >= 0 or None, got -0.1"),
    (residual_loss, {"normalize": math.inf}, ValueError, "normalize must be a finite number >= 0 or None, got inf"),
    (residual_loss, {"normalize": [0.1]}, TypeError, "normalize must be a number, got list"),
    (
        residual_loss,
        {"normalize": 0.1, "metric": Metric(cosine=1.0)},
        ValueError,
        "normalize must be None with a cosine term",
    ),
    (
        Metric,
        {"name": "huber"},
        ValueError,
        "metric must be one of l2, pseudo_huber, barron, barron_reweighting, got 'huber'",
    ),
    (Metric, {"c": -1.0}, ValueError, "metric c must be a finite number >= 0 for l2, got -1.0"),
    (Metric, {"c": math.inf}, ValueError, "metric c must be a finite number >= 0 for l2, got inf"),
    (Metric, {"c": "1"}, TypeError, "metric c must be a number, got str"),
    (Metric, {"name": "barron", "c": 0.0}, ValueError, "metric c must be a finite number > 0 for barron, got 0.0"),
    (Metric, {"name": "barron", "alpha": math.inf}, ValueError, "metric alpha must be a number or -inf, got inf"),
    (Metric, {"name": "barron", "alpha": math.nan}, ValueError, "metric alpha must be a number or -inf, got nan"),
    (Metric, {"cosine": -1.0}, ValueError, "metric cosine must be a finite number >= 0, got -1.0"),
    (Metric, {"cosine_dim": 1}, ValueError, "metric cosine_dim must be one of channels, sample, got 1"),
    (Metric, {"cosine": None}, TypeError, "metric cosine must be a number, got NoneType"),
    (AdaptiveWeight, {"eps": 0.0}, ValueError, "adaptive eps must be a finite number > 0, got 0.0"),
    (AdaptiveWeight, {"eps": -1e-3}, ValueError, "adaptive eps must be a finite number > 0, got -0.001"),
    (AdaptiveWeight, {"power": math.nan}, ValueError, "adaptive power must be finite, got nan"),
    (AdaptiveWeight, {"of": "m"}, ValueError, "adaptive of must be one of residual, loss, got 'm'"),
    (Metric, {"name": "barron_reweighting", "c": 0.0}, ValueError, "metric c must be a finite number > 0"),
    (AdaptiveWeight, {"power": "1"}, TypeError, "adaptive power must be a number, got str"),
    # path
    (points, {"x": [1.0]}, TypeError, "x must be a tensor, got list"),
    (points, {"x": X.int()}, TypeError, f"x must be of dtype {STORAGE}, got int32"),
    (points, {"z": X.T}, ValueError, "z must have the shape [2, 3], got [3, 2]"),
    (points, {"z": META}, ValueError, "z must be on cpu, got meta"),
    (points, {"alpha": 0.5}, TypeError, "alpha must be a tensor or a sequence of numbers and tensors, got float"),
    (points, {"alpha": T}, ValueError, "alpha must have the shape [P, 2] with P from 1 to 32, got [2]"),
    (points, {"alpha": COEFFS[:0]}, ValueError, "alpha must have the shape [P, 2] with P from 1 to 32, got [0, 2]"),
    (points, {"alpha": torch.ones(33, 2)}, ValueError, "with P from 1 to 32, got [33, 2]"),
    (points, {"alpha": []}, ValueError, "alpha must have from 1 to 32 entries, got 0"),
    (points, {"alpha": COEFFS.int()}, TypeError, f"alpha must be of dtype {STORAGE}, got int32"),
    (points, {"alpha": COEFFS.clone().requires_grad_()}, ValueError, "alpha must not require a gradient"),
    (points, {"gamma": [1.0, 0.0]}, ValueError, "gamma must have 1 entries, got 2"),
    (points, {"gamma": torch.ones(2, 2)}, ValueError, "gamma must have the shape [1, 2], got [2, 2]"),
    (points, {"dtype": torch.int8}, TypeError, f"dtype must be one of {STORAGE}, got torch.int8"),
    (step, {"x": X.char()}, TypeError, f"x must be of dtype {STORAGE}, got int8"),
    (step, {"velocity": X[0]}, ValueError, "velocity must have the shape [2, 3], got [3]"),
    (step, {"t": "0.5"}, TypeError, "t must be a tensor or a number, got str"),
    (step, {"t": T[:1]}, ValueError, "t must have the shape [2], got [1]"),
    (step, {"r": T.to("meta")}, ValueError, "r must be on cpu, got meta"),
    (step, {"out": X[:1]}, ValueError, "out must have the shape [2, 3], got [1, 3]"),
    (step, {"out": X.long()}, TypeError, f"out must be of dtype {STORAGE}, got int64"),
    (step, {"out": META}, ValueError, "out must be on cpu, got meta"),
    (step, {"out": X.clone().requires_grad_()}, ValueError, "out must not require a gradient"),
    (step, {"out": X[:1].expand(2, 3)}, ValueError, "out must have memory for each element, got strides (0, 1)"),
    # moving average
    (average, {"decay": -0.1}, ValueError, "decay must be from 0 to 1, got -0.1"),
    (average, {"decay": 1.1}, ValueError, "decay must be from 0 to 1, got 1.1"),
    (average, {"decay": math.nan}, ValueError, "decay must be from 0 to 1, got nan"),
    (average, {"decay": "0.9"}, TypeError, "decay must be a number, got str"),
    (average, {"decay": torch.tensor(0.9)}, TypeError, "decay must be a number, got Tensor"),
    (average, {"ema": X}, TypeError, "ema_params must be a sequence of tensors, got one tensor"),
    (average, {"ema": [X.half()]}, TypeError, "ema_params[0] must be of dtype float32, float64, got float16"),
    (average, {"ema": [X.clone(), X.bfloat16()], "params": [X, X]}, TypeError, "ema_params[1] must be of dtype"),
    (average, {"ema": [torch.ones(2, 6)[:, ::2]]}, ValueError, "ema_params[0] must have no gaps in memory"),
    (average, {"ema": [None]}, TypeError, "ema_params[0] must be a tensor, got NoneType"),
    (average, {"params": [X, X]}, ValueError, "params must have as many tensors as ema_params, 1, got 2"),
    (average, {"params": [X.int()]}, TypeError, f"params[0] must be of dtype {STORAGE}, got int32"),
    (average, {"params": [X.T]}, ValueError, "params[0] must have the shape [2, 3], got [3, 2]"),
    (average, {"params": [META]}, ValueError, "params[0] must be on cpu, got meta"),
    (average, {"cast_to": []}, ValueError, "cast_to must have as many tensors as ema_params, 1, got 0"),
    (average, {"cast_to": X}, TypeError, "cast_to must be a sequence of tensors, got one tensor"),
    (average, {"cast_to": [X.long()]}, TypeError, f"cast_to[0] must be of dtype {STORAGE}, got int64"),
    (average, {"cast_to": [X[:1]]}, ValueError, "cast_to[0] must have the shape [2, 3], got [1, 3]"),
    (average, {"cast_to": [torch.ones(2, 4)[:, :3]]}, ValueError, "cast_to[0] must have no gaps in memory"),
]


@pytest.mark.parametrize(("call", "arguments", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_arguments(call, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(**arguments)


@pytest.mark.parametrize("layout", ["sparse", "csr", "mkldnn", "nested", "jagged", "quantized"])
@pytest.mark.parametrize(
    ("call", "argument"),
    [(loss, "pred"), (loss, "velocity"), (residual_loss, "terms"), (points, "x"), (points, "z"), (step, "velocity"),
     (step, "out"), (average, "params"), (loss, "weight"), (residual_loss, "coeffs"), (step, "t")],
)  # fmt: skip
def test_tensors_without_strides(call, argument, layout):
    plain = {"weight": T, "coeffs": COEFFS, "t": T}.get(argument, X)
    if layout == "nested" or (layout == "jagged" and plain.ndim == 1):
        strange = torch.nested.nested_tensor([plain, plain])
    elif layout == "csr" and plain.ndim == 1:
        strange = plain.to_sparse()
    else:
        strange = {
            "sparse": Tensor.to_sparse,
            "csr": Tensor.to_sparse_csr,
            "mkldnn": Tensor.to_mkldnn,
            "jagged": lambda values: torch.nested.nested_tensor([values, values], layout=torch.jagged),
            "quantized": lambda values: torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        }[layout](plain)
    with pytest.raises(TypeError, match=f"{argument}.* must be (a dense tensor, got layout|of dtype .*, got qint8)"):
        call(**{argument: [strange] if argument in ("terms", "params") else strange})


@pytest.mark.parametrize("call", [loss, residual_loss, points, step, average])
def test_the_arguments_are_right_but_for_what_is_wrong(call):
    call()


def test_the_most_tensors_that_fit():
    times = torch.linspace(1, 0, 32)[:, None].expand(32, 2)
    assert loss(segments=[X] * 30, times=times).item() == 0
    assert loss(segments=[X] * 30, times=times, base=X).item() == 0
    assert residual_loss(terms=[X] * 31, coeffs=torch.zeros(31, 2)).item() == 1
    assert residual_loss(terms=[X] * 32, coeffs=torch.zeros(32, 2), pred_coeff=0).item() == 0
    assert points(alpha=torch.ones(32, 2), gamma=torch.ones(32, 2)).shape == (32, 2, 3)
