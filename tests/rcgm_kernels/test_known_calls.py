"""A call that passed its checks is not checked again; one that differs in anything that is checked is."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcgm_kernels import (
    AdaptiveWeight,
    Metric,
    advance,
    checks,
    ema_update_,
    fused_loss,
    fused_residual_loss,
    interpolate,
)
from rcgm_kernels.backends import ENVIRONMENT, cpu, reference
from tests.support.implementations import environment

X, VELOCITY = torch.ones(2, 3), torch.full((2, 3), 0.5)
KNOTS = torch.tensor([[0.9, 0.9], [0.8, 0.8], [0.1, 0.1]])
COEFFS, T = torch.ones(1, 2), torch.ones(2)


def knots_loss(**changes: object) -> Tensor:
    arguments = {"pred": X, "segments": [X], "velocity": VELOCITY, "times": KNOTS, "weight": T, "base": X} | changes
    return fused_loss(**arguments)


def residual_loss(**changes: object) -> Tensor:
    arguments = {"pred": X, "terms": [X], "coeffs": COEFFS, "scale": T, "weight": T, "clip": 1.0} | changes
    arguments |= {"normalize": 1.0, "normalize_scale": T, "adaptive": 1.0} if "metric" not in changes else {}
    return fused_residual_loss(**(arguments | changes))


def points(**changes: object) -> Tensor:
    return interpolate(**({"x": X, "z": VELOCITY, "alpha": KNOTS, "gamma": KNOTS} | changes))


def step(**changes: object) -> Tensor:
    return advance(**({"x": X, "velocity": VELOCITY, "t": T, "r": T} | changes))


def step_into(**changes: object) -> Tensor:
    return step(**({"out": torch.empty(2, 3)} | changes))


def average(**changes: object) -> None:
    given = {"ema_params": [torch.ones(2, 3)], "params": [X], "decay": 0.5, "cast_to": [torch.ones(2, 3)]} | changes
    return ema_update_(**given)


def learned(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


WRONG: list[tuple[Callable[..., Tensor], dict[str, object], str]] = [
    (knots_loss, {"pred": torch.ones(2, 4)}, "segments[0] must have the shape [2, 4], got [2, 3]"),
    (knots_loss, {"pred": X.int()}, "pred must be of dtype"),
    (knots_loss, {"pred": X.to_sparse()}, "pred must be a dense tensor"),
    (knots_loss, {"pred": X.numpy()}, "pred must be a tensor, got ndarray"),
    (knots_loss, {"segments": [X, X]}, "times must have the shape [4, 2], got [3, 2]"),
    (knots_loss, {"segments": [X.T.contiguous()]}, "segments[0] must have the shape [2, 3], got [3, 2]"),
    (knots_loss, {"segments": [None]}, "segments[0] must be a tensor, got NoneType"),
    (knots_loss, {"segments": X}, "segments must have the shape [N, 2, 3], got [2, 3]"),
    (knots_loss, {"segments": torch.ones(1, 2, 4)}, "segments must have the shape [N, 2, 3], got [1, 2, 4]"),
    (knots_loss, {"segments": X.to("meta")[None]}, "segments[0] must be on cpu, got meta"),
    (knots_loss, {"segments": 3}, "segments must be a tensor or a sequence of tensors, got int"),
    (knots_loss, {"velocity": X[:1]}, "velocity must have the shape [2, 3], got [1, 3]"),
    (knots_loss, {"velocity": X.to("meta")}, "velocity must be on cpu, got meta"),
    (knots_loss, {"base": X[:, :2]}, "base must have the shape [2, 3], got [2, 2]"),
    (knots_loss, {"times": KNOTS[:2]}, "times must have the shape [3, 2], got [2, 2]"),
    (knots_loss, {"times": KNOTS.flip(0)}, "times must fall from t_0"),
    (knots_loss, {"times": learned(KNOTS)}, "times must not require a gradient"),
    (knots_loss, {"weight": learned(T)}, "weight must not require a gradient"),
    (knots_loss, {"weight": "1"}, "weight must be a tensor or a number, got str"),
    (knots_loss, {"clip": 0.0}, "clip must be > 0"),
    (knots_loss, {"clip": True}, "clip must be a number, got bool"),
    (knots_loss, {"clip": torch.tensor(1.0)}, "clip must be a number, got Tensor"),
    (knots_loss, {"metric": "l1"}, "metric must be one of"),
    (knots_loss, {"metric": ["l2"]}, "metric must be a name"),
    (knots_loss, {"reduce": "max"}, "reduce must be one of"),
    (knots_loss, {"reduction": "max"}, "reduction must be one of"),
    (knots_loss, {"reduction": ["mean"]}, "reduction must be one of"),
    (knots_loss, {"backend": "cube"}, "backend must be one of"),
    (knots_loss, {"normalize_scale": T}, "normalize_scale must be None without normalize"),
    (residual_loss, {"terms": [X.bool()]}, "terms[0] must be of dtype"),
    (residual_loss, {"coeffs": torch.ones(2, 2)}, "coeffs must have the shape [1, 2], got [2, 2]"),
    (residual_loss, {"coeffs": COEFFS.to("meta")}, "coeffs must be on cpu, got meta"),
    (residual_loss, {"pred_coeff": True}, "pred_coeff must be a tensor or a number, got bool"),
    (residual_loss, {"pred_coeff": T[:1]}, "pred_coeff must have the shape [2], got [1]"),
    (residual_loss, {"scale": learned(T)}, "scale must not require a gradient"),
    (residual_loss, {"normalize": True}, "normalize must be a number, got bool"),
    (residual_loss, {"normalize": None}, "normalize_scale must be None without normalize"),
    (residual_loss, {"normalize_scale": T.int()}, "normalize_scale must be of dtype"),
    (residual_loss, {"adaptive": True}, "adaptive must be an AdaptiveWeight, a power or None, got bool"),
    (points, {"z": X.T}, "z must have the shape [2, 3], got [3, 2]"),
    (points, {"alpha": KNOTS[:2]}, "gamma must have the shape [2, 2], got [3, 2]"),
    (points, {"gamma": learned(KNOTS)}, "gamma must not require a gradient"),
    (points, {"dtype": torch.int32}, "dtype must be one of"),
    (points, {"backend": "cube"}, "backend must be one of"),
    (step, {"velocity": X.to("meta")}, "velocity must be on cpu, got meta"),
    (step, {"t": T[:1]}, "t must have the shape [2], got [1]"),
    (step, {"r": None}, "r must be a tensor or a number, got NoneType"),
    (step_into, {"out": torch.empty(2, 4)}, "out must have the shape [2, 3], got [2, 4]"),
    (step_into, {"out": torch.empty(2, 3, requires_grad=True)}, "out must not require a gradient"),
    (step_into, {"out": torch.empty(1, 3).expand(2, 3)}, "out must have memory for each element"),
    (step_into, {"out": (memory := torch.empty(9))[:6].view(2, 3), "x": memory[3:].view(2, 3)}, "out must be x itself"),
    (average, {"decay": 1.5}, "decay must be from 0 to 1, got 1.5"),
    (average, {"decay": True}, "decay must be a number, got bool"),
    (average, {"params": [X, X]}, "params must have as many tensors as ema_params, 1, got 2"),
    (average, {"params": [X[:1]]}, "params[0] must have the shape [2, 3], got [1, 3]"),
    (average, {"cast_to": []}, "cast_to must have as many tensors as ema_params, 1, got 0"),
    (average, {"cast_to": [torch.ones(1, 3).expand(2, 3)]}, "cast_to[0] must have no gaps in memory"),
    (average, {"ema_params": [X], "cast_to": [X]}, "cast_to[0] must share no memory with ema_params[0]"),
    (average, {"ema_params": [X.half()]}, "ema_params[0] must be of dtype float32, float64, got float16"),
]


@pytest.mark.parametrize(("call", "change", "message"), WRONG, ids=[f"{call.__name__}: {m}" for call, _, m in WRONG])
def test_a_good_call_does_not_spare_a_bad_one_its_checks(call, change, message):
    for _ in range(2):
        call()
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            call(**change)


SAME_NUMBERS = {
    "another dtype": {"velocity": VELOCITY.half()},
    "float64": {"pred": X.double()},
    "other strides": {"pred": torch.ones(3, 2).T},
    "a batch with gaps": {"segments": [torch.ones(2, 2, 3)[:, 0]]},
    "a stack": {"segments": X[None]},
    "a tuple": {"segments": (X,)},
    "a parameter": {"pred": nn.Parameter(X)},
    "knots as a list": {"times": [0.9, KNOTS[1], KNOTS[2, :, None]]},
    "a number for a tensor": {"weight": 1.0},
    "a weight for all": {"weight": torch.tensor(1.0)},
    "weights in half precision": {"weight": T.half()},
    "a scalar type of numpy": {"clip": np.float64(1.0)},
    "an integer": {"clip": 1},
    "an option by its class": {"metric": Metric()},
    "no adaptive weight by its class": {"adaptive": AdaptiveWeight(0.0)},
    "a backend by its name": {"backend": "reference"},
}


@pytest.mark.parametrize("change", SAME_NUMBERS.values(), ids=SAME_NUMBERS)
def test_calls_that_differ_in_form_give_the_same_numbers(change):
    for _ in range(2):
        assert knots_loss() > 0
        torch.testing.assert_close(
            knots_loss(**change), knots_loss(), rtol=1e-6, atol=0, check_dtype="pred" not in change
        )


def test_known_calls_are_told_apart_by_whether_a_gradient_is_wanted():
    for _ in range(2):
        assert knots_loss().grad_fn is None
        leaf = learned(X)
        knots_loss(pred=leaf).backward()
        assert leaf.grad.abs().sum() > 0
        with torch.no_grad():
            assert knots_loss(pred=leaf).grad_fn is None
            assert (
                knots_loss(weight=learned(T)).grad_fn is None
            )  # what requires a gradient matters only where one is made
        with torch.inference_mode():
            assert knots_loss(pred=leaf).is_inference()


def test_the_checks_are_made_once(monkeypatch):
    made = []
    original = checks.state
    monkeypatch.setattr(checks, "state", lambda *arguments: (made.append(1), original(*arguments))[1])
    given = {"pred": torch.ones(2, 7), "segments": [torch.ones(2, 7)], "velocity": torch.ones(2, 7), "base": None}
    first = knots_loss(**given)
    counted = len(made)
    again = knots_loss(**{name: value if value is None else _like(value) for name, value in given.items()})
    assert counted > 0
    assert len(made) == counted
    assert torch.equal(first, again)


def _like(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return value.clone() if isinstance(value, Tensor) else [tensor.clone() for tensor in value]


def test_the_backend_of_a_known_call_is_the_one_that_is_named_now(monkeypatch):
    ran = []
    for backend in (cpu, reference):
        original = backend.residual_loss

        def spy(*arguments, original=original, backend=backend):
            ran.append(backend.NAME)
            return original(*arguments)

        monkeypatch.setattr(backend, "residual_loss", spy)
    for _ in range(2):
        knots_loss()
        with environment(ENVIRONMENT, "reference"):
            knots_loss()
    assert ran == ["cpu", "reference"] * 2


def test_a_tensor_that_outlived_its_transform_is_taken_for_what_it_holds():
    leaked = []
    torch.func.grad(lambda x: (leaked.append(x), x.sum())[1])(VELOCITY)
    for _ in range(2):
        assert torch.equal(knots_loss(velocity=leaked[0]), knots_loss())
        assert torch.equal(knots_loss(pred=leaked[0]), knots_loss(pred=VELOCITY))


def test_points_that_carry_a_gradient_are_told_apart():
    for _ in range(2):
        assert not points().requires_grad
        leaf = learned(X)
        points(x=leaf).sum().backward()
        torch.testing.assert_close(leaf.grad, KNOTS.sum(0)[:, None].expand(2, 3))


def test_a_decay_is_that_of_each_call():
    for decay in (0.0, 0.25, 1.0):
        mean, copy = torch.ones(2, 3), torch.ones(2, 3)
        average(ema_params=[mean], cast_to=[copy], params=[VELOCITY], decay=decay)
        assert torch.equal(mean, copy)
        assert torch.equal(mean, torch.full((2, 3), decay + (1 - decay) * 0.5))


def test_lazy_tensors_are_resolved_after_a_call_that_had_none():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    lazy = torch._neg_view(-x)
    for _ in range(2):
        assert torch.equal(knots_loss(velocity=x), knots_loss(velocity=lazy))
