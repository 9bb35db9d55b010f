"""``torch.ops.rcgm_kernels`` called without its functions: nothing is read that lies out of bounds."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch._subclasses import FakeTensorMode

import rcgm_kernels  # noqa: F401 - defines the operations

OPS = torch.ops.rcgm_kernels
X, T, C = torch.ones(2, 3), torch.ones(2), torch.ones(1, 2)
KNOTS = torch.tensor([[0.9, 0.9], [0.8, 0.8], [0.1, 0.1]])
META = torch.ones(2, 3, device="meta")


def loss(
    pred=X,
    terms=(X,),
    scalars=C,
    pred_coeff=None,
    scale=None,
    weight=None,
    normalize_scale=None,
    times=False,
    pred_in_residual=True,
    clip=1.0,
    metric="l2",
    c=1.0,
    alpha=1.0,
    cosine=0.0,
    cosine_dim="channels",
    normalize=None,
    power=0.0,
    eps=1.0,
    adaptive_of="residual",
    reduce="mean",
    reduction="mean",
    with_gradient=True,
    backend="",
):
    numbers = (scalars, pred_coeff, scale, weight, normalize_scale)
    options = (times, pred_in_residual, clip, metric, c, alpha, cosine, cosine_dim, normalize, power, eps, adaptive_of)
    return OPS.residual_loss(pred, list(terms), *numbers, *options, reduce, reduction, with_gradient, backend)


def scaled(gradient=None, upstream=T, scales=T[:0], backend=""):
    return OPS.scale_gradient_(X.clone() if gradient is None else gradient, upstream, scales, backend)


def points(x=X, z=X, alpha=C, gamma=C, dtype=torch.float32, backend=""):
    return OPS.interpolate(x, z, alpha, gamma, dtype, backend)


def step(out=None, x=X, velocity=X, t=T, r=T, backend=""):
    return OPS.advance_(X.clone() if out is None else out, x, velocity, t, r, backend)


def average(ema=None, params=(X,), decay=0.5, cast_to=(), backend=""):
    return OPS.ema_update_([X.clone()] if ema is None else ema, list(params), decay, list(cast_to), backend)


WRONG: list[tuple[Callable[..., object], dict[str, object], str]] = [
    (loss, {"pred": X.int()}, "pred must be of dtype"),
    (loss, {"pred": torch.tensor(1.0)}, "pred must have a batch dimension"),
    (loss, {"terms": [X[:1]]}, "terms[0] must have the shape [2, 3], got [1, 3]"),
    (loss, {"terms": [X, X.long()], "scalars": torch.ones(2, 2)}, "terms[1] must be of dtype"),
    (loss, {"terms": [META]}, "terms[0] must be on cpu, got meta"),
    (loss, {"terms": [X] * 32, "scalars": torch.ones(32, 2)}, "must be at most 32, got 33"),
    (loss, {"terms": [], "scalars": C[:0], "pred_in_residual": False}, "there is nothing to combine"),
    (loss, {"scalars": C[:0]}, "scalars must have the shape [1, 2], got [0, 2]"),
    (loss, {"scalars": C.half()}, "scalars must be of dtype float32, float64, got float16"),
    (loss, {"scalars": torch.ones(1, 3)}, "scalars must have the shape [1, 2], got [1, 3]"),
    (loss, {"times": True, "scalars": KNOTS}, "scalars must have the shape [2, 2], got [3, 2]"),
    (loss, {"times": True, "terms": [X, X], "scalars": KNOTS[:2]}, "scalars must have the shape [3, 2], got [2, 2]"),
    (
        loss,
        {"times": True, "terms": [X], "scalars": KNOTS, "pred_in_residual": False},
        "terms must be the base if it is not pred",
    ),
    (loss, {"pred_coeff": X}, "pred_coeff must have the shape [2], got [2, 3]"),
    (loss, {"scale": T[:1]}, "scale must have the shape [2], got [1]"),
    (loss, {"weight": T.to("meta")}, "weight must be on cpu, got meta"),
    (loss, {"metric": "l1"}, "metric must be one of"),
    (loss, {"metric": "barron", "c": 0.0}, "metric c must be a finite number > 0"),
    (loss, {"clip": 0.0}, "clip must be > 0"),
    (loss, {"normalize": -1.0}, "normalize must be a finite number >= 0"),
    (loss, {"power": 1.0, "eps": 0.0}, "adaptive eps must be a finite number > 0"),
    (loss, {"reduction": "max"}, "reduction must be one of"),
    (loss, {"reduce": "max"}, "reduce must be one of"),
    (loss, {"adaptive_of": "it", "power": 1.0}, "adaptive of must be one of"),
    (loss, {"normalize_scale": X, "normalize": 0.1}, "normalize_scale must have the shape [2], got [2, 3]"),
    (loss, {"pred": X.clone().requires_grad_(), "with_gradient": False}, "with_gradient must be True"),
    (loss, {"weight": T.clone().requires_grad_()}, "weight must not require a gradient"),
    (loss, {"backend": "cube"}, "backend must be one of"),
    (scaled, {"gradient": X.clone()[:, ::2]}, "gradient must have dense samples"),
    (scaled, {"gradient": X[:1].clone().expand(2, 3)}, "gradient must have memory for each element"),
    (scaled, {"gradient": X.long()}, "gradient must be of dtype"),
    (scaled, {"upstream": torch.ones(3)}, "upstream must have the shape [] or [2], got [3]"),
    (scaled, {"upstream": T.to("meta")}, "upstream must be on cpu, got meta"),
    (scaled, {"gradient": X[:, 0].clone(), "upstream": T.int()}, "upstream must be of dtype"),
    (scaled, {"scales": T[:1]}, "scales must be float32 of the shape [0] or [2], got float32 of [1]"),
    (scaled, {"scales": T.double()}, "scales must be float32 of the shape [0] or [2], got float64 of [2]"),
    (points, {"z": X.T}, "z must have the shape [2, 3], got [3, 2]"),
    (points, {"x": X.char()}, "x must be of dtype"),
    (points, {"alpha": T}, "alpha must have the shape [P, 2] with P from 1 to 32, got [2]"),
    (points, {"alpha": C[..., None]}, "alpha must have the shape [P, 2] with P from 1 to 32, got [1, 2, 1]"),
    (points, {"alpha": torch.ones(33, 2)}, "with P from 1 to 32, got [33, 2]"),
    (points, {"alpha": torch.ones(1, 3)}, "alpha must have the shape [1, 2], got [1, 3]"),
    (points, {"gamma": torch.ones(2, 2)}, "gamma must have the shape [1, 2], got [2, 2]"),
    (points, {"gamma": C.bfloat16()}, "gamma must be of dtype float32, float64, got bfloat16"),
    (points, {"dtype": torch.int32}, "dtype must be one of"),
    (step, {"out": X[:1].clone()}, "out must have the shape [2, 3], got [1, 3]"),
    (step, {"velocity": X[0]}, "velocity must have the shape [2, 3], got [3]"),
    (step, {"t": T[:1]}, "t must have the shape [2], got [1]"),
    (step, {"r": T.half()}, "r must be of dtype float32, float64, got float16"),
    (step, {"out": X.to_sparse()}, "out must be a dense tensor, got layout sparse_coo"),
    (average, {"params": [X[:1]]}, "params[0] must have the shape [2, 3], got [1, 3]"),
    (average, {"params": []}, "params must have as many tensors as ema_params, 1, got 0"),
    (average, {"params": [X.long()]}, "params[0] must be of dtype"),
    (average, {"ema": [X.half()]}, "ema_params[0] must be of dtype float32, float64, got float16"),
    (average, {"ema": [X.clone()[:, ::2]], "params": [X[:, ::2]]}, "ema_params[0] must have no gaps in memory"),
    (average, {"decay": 2.0}, "decay must be from 0 to 1, got 2.0"),
    (average, {"cast_to": [X, X]}, "cast_to must have as many tensors as ema_params, 1, got 2"),
    (average, {"cast_to": [META]}, "cast_to[0] must be on cpu, got meta"),
    (average, {"ema": [X.clone(), META.clone()], "params": [X, META]}, "ema_params[1] must be on cpu, got meta"),
]


@pytest.mark.parametrize(("call", "arguments", "message"), WRONG, ids=[f"{call.__name__}: {m}" for call, _, m in WRONG])
def test_wrong_arguments(call, arguments, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(**arguments)


@pytest.mark.parametrize("call", [loss, scaled, points, step, average])
def test_the_arguments_are_right_but_for_what_is_wrong(call):
    call()


def test_a_gradient_and_what_multiplies_it_are_apart():
    memory = torch.ones(6)
    with pytest.raises(ValueError, match="gradient must share no memory with upstream"):
        OPS.scale_gradient_(memory.view(2, 3), memory[4:6], T[:0], "")
    with pytest.raises(ValueError, match="gradient must share no memory with scales"):
        OPS.scale_gradient_(memory.view(2, 3), T, memory[4:6], "")


@pytest.mark.parametrize(
    ("call", "argument"), [(loss, "scalars"), (points, "gamma"), (step, "t"), (scaled, "upstream"), (average, "params")]
)
def test_tensors_without_data_are_checked_as_well(call, argument):
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(ValueError, match=f"{argument}.* must have the shape"),
    ):
        call(**{argument: [torch.ones(4)] if argument == "params" else torch.ones(4)})
