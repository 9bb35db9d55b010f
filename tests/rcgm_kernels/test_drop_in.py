"""The code of docs/drop_in.md: as short as it says, and the loss and gradient of each published loop."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rcgm_kernels
from rcgm_kernels import advance, fused_loss, fused_regression, interpolate
from tests.support import published_loops as loops
from tests.support import published_tim, published_ucgm
from tests.support.published_loops import Problem

PAGE = (Path(__file__).parents[2] / "docs" / "drop_in.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
GAP, E = 0.01, loops.DIFFERENCE


def state(p: Problem, time: Tensor) -> Tensor:
    return interpolate(p.x, p.z, [time], [1 - time])[0]


def network(p: Problem, time: Tensor, r: Tensor) -> Tensor:
    return p.student(state(p, time), time, r, p.labels)


def slope(p: Problem, step: Callable[[Tensor], Tensor]) -> Tensor:
    """The network's derivative along the path, by a difference."""
    return (step(p.t + E) - step(p.t - E)) / (2 * E)


def mean_flow(p: Problem) -> dict[str, object]:
    return {"v": p.z - p.x, "slope": slope(p, lambda time: network(p, time, p.r))}


def tim(p: Problem) -> dict[str, object]:
    return mean_flow(p)


def rcgm(p: Problem) -> dict[str, object]:
    x_t, v = state(p, p.t), p.z - p.x
    t1 = torch.maximum(p.t - GAP, p.r)
    t2 = (t1 + p.r) / 2
    x1 = x_t - GAP * v
    first = p.target(x1, t1, t2, p.labels)
    second = p.target(advance(x1, first, t1, t2), t2, p.r, p.labels)
    return {"v": v, "t1": t1, "t2": t2, "first": first, "second": second}


def ucgm(p: Problem) -> dict[str, object]:
    zero = torch.zeros_like(p.t)
    return {
        "v": p.z - p.x, "e": E, "r": zero, "ahead": network(p, p.t + E, zero), "behind": network(p, p.t - E, zero)
    }  # fmt: skip


def scm(p: Problem) -> dict[str, object]:
    angle, zero = math.pi / 2 * p.t, torch.zeros_like(p.t)
    x_t, v = interpolate(p.x, p.z, [angle.sin(), angle.cos()], [angle.cos(), -angle.sin()])

    def predict(state: Tensor, angle: Tensor) -> Tensor:
        return p.student(state, 2 / math.pi * angle, zero, p.labels)

    _, slope = torch.func.jvp(predict, (x_t, angle), (v, torch.ones_like(angle)))
    return {"angle": angle, "x_t": x_t, "v": v, "slope": slope, "warm": 0.7, "r": zero}


def consistency(p: Problem) -> dict[str, object]:
    zero, gap = torch.zeros_like(p.t), 1 / 64
    earlier = p.t - gap
    before = advance(state(p, earlier), network(p, earlier, zero), earlier, 0.0)
    return {"before": before, "gap": gap, "r": zero}


CASES = {
    "MeanFlow": (0, mean_flow, loops.mean_flow(difference=E)),
    "RCGM": (1, rcgm, loops.rcgm(2)),
    "TwinFlow": (2, rcgm, loops.rcgm(2, reweighted=0.5, tangent=True)),
    "UCGM": (3, ucgm, published_ucgm.ucgm(1.0, c=0.1)),
    "sCM": (4, scm, loops.scm(warm=0.7)),
    "TiM": (5, tim, published_tim.tim()),
    "consistency": (6, consistency, loops.consistency()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", [(loops.BATCH,), (loops.BATCH, 1, 1, 1)], ids=["[B]", "[B, 1, 1, 1]"])
def test_code_of_the_page(name, form):
    index, evaluate, published = CASES[name]
    p = loops.problem("zero" if name in ("UCGM", "sCM", "consistency") else "below", drop=False)
    with torch.no_grad():
        names = {"x_t": state(p, p.t), "t": p.t, "r": p.r} | evaluate(p)
    names["pred"] = p.student(names["x_t"], p.t, names["r"], p.labels)
    names = {
        key: value.reshape(form) if isinstance(value, Tensor) and value.ndim == 1 else value
        for key, value in names.items()
    }
    public = {key: getattr(rcgm_kernels, key) for key in rcgm_kernels.__all__}
    given = {"math": math, "torch": torch, **public, **names}
    exec(SNIPPETS[index], given)
    parameters = list(p.student.parameters())
    gradients = [torch.autograd.grad(loss, parameters) for loss in (given["loss"], published(p))]
    torch.testing.assert_close(given["loss"], published(p), rtol=1e-10, atol=1e-12)
    largest = max(float(gradient.abs().max()) for gradient in gradients[1])
    assert largest > 1e-4
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * largest)


def test_every_piece_of_code_is_short_and_tested():
    assert len(SNIPPETS) == len(CASES)
    for snippet in SNIPPETS:
        assert len(snippet.strip().splitlines()) <= 3


def test_what_else_the_page_says():
    p = loops.problem("below", drop=False)
    x, z, t = p.x, p.z, p.t
    x_t, v = eval(re.search(r"`x_t, v = (interpolate\(.*?)`", PAGE).group(1), {"interpolate": interpolate, **vars()})
    torch.testing.assert_close(x_t, state(p, t))
    torch.testing.assert_close(v, z - x)
    assert fused_regression(x_t, x).item() == pytest.approx((x_t - x).square().mean().item())
    assert fused_loss(x_t, [], v, [t, p.r]).ndim == 0
