"""Each published loop beside the objective that is to be the same, and how far apart they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.derivatives import Central, ForwardMode
from rcgm.objectives import (
    RCGM,
    SCM,
    UCGM,
    Consistency,
    EnhancedTarget,
    MeanFlow,
    MixedTarget,
    Objective,
    RootWeight,
    SelfEnhancedTarget,
    TangentWeight,
    TeacherEnhancedTarget,
    TiM,
)
from rcgm.objectives.times import Times
from rcgm.transports import VP, Linear, TrigFlow, TrigLinear
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support import published_loops as loops
from tests.support import published_ucgm
from tests.support.published_loops import BATCH, EQUAL, NULL, Loss, Problem, problem
from tests.support.published_tim import TIM_TRANSPORTS, tim


@dataclass(frozen=True)
class Case:
    """A loop with its options.

    Args:
        loop, options: what it is, for the table.
        published: the loss by the formulas of the loop.
        objective: ours.
        times: see ``problem``.
        drop: whether labels are dropped.
        value: false where the values differ by a factor of each sample, and the gradients alone are compared.
        bound: of the relative differences; rounding where nothing else is known.
    """

    loop: str
    options: str
    published: Loss
    objective: Callable[[], Objective]
    times: str
    drop: bool = False
    value: bool = True
    bound: float = 1e-8


@dataclass(frozen=True)
class Comparison:
    """Relative differences of value and gradient of the parameters, and the ratio of the norms, ours over theirs."""

    value: float | None
    gradient: float
    ratio: float


def compare(case: Case) -> Comparison:
    at = problem(case.times, drop=case.drop)
    equal = {"mixed": EQUAL, "equal": BATCH}.get(case.times, 0)
    out = case.objective()(
        at.student, at.x, at.labels, target=at.target, teacher=at.teacher, null_cond=torch.tensor([NULL]),
        noise=at.z, times=Times(at.t, at.r, equal), dropped=at.dropped,
    )  # fmt: skip
    published = case.published(at)
    ours, theirs = _gradient(out.loss, at), _gradient(published, at)
    value = abs(out.loss.item() - published.item()) / abs(published.item()) if case.value else None
    return Comparison(value, float((ours - theirs).norm() / theirs.norm()), float(ours.norm() / theirs.norm()))


def _gradient(loss: Tensor, at: Problem) -> Tensor:
    gradients = torch.autograd.grad(loss, list(at.student.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def _tim(transport: str, **options: object) -> Callable[[], TiM]:
    known = {"linear": Linear, "trigflow": TrigFlow, "triglinear": TrigLinear, "vp": VP}
    return lambda: TiM(
        transport=known[transport](),
        metric=Metric(cosine=1.0),
        adaptive=AdaptiveWeight(1.0, 1e-5, of="loss"),
        **options,
    )


def _mean_flow(**options: object) -> Callable[[], MeanFlow]:
    return lambda: MeanFlow(
        **{"derivative": ForwardMode(), "reduce": "sum", "adaptive": AdaptiveWeight(1.0, 0.01), **options}
    )


FEW = "pseudo-Huber c 5, cosine weight"
MANY = "direction term, cosine weight"
CASES = [
    *(Case("RCGM", f"order {n}", loops.rcgm(n), lambda n=n: RCGM(order=n), "mixed", drop=True) for n in range(1, 9)),
    Case(
        "RCGM",
        "order 2, guidance 0.5 by the average",
        loops.rcgm(2, ratio=0.5),
        lambda: RCGM(order=2, guidance=EnhancedTarget(0.5)),
        "mixed",
    ),
    Case(
        "TwinFlow",
        "recursive part: order 2, `barron_reweighting` at c 1e-3, tangent weight",
        loops.rcgm(2, reweighted=1e-3, tangent=True),
        lambda: RCGM(order=2, metric=Metric("barron_reweighting", c=1e-3), sample_weight=TangentWeight()),
        "mixed",
    ),
    Case(
        "UCGM",
        f"ratio 0, {MANY}",
        published_ucgm.ucgm(0, cosine=True),
        lambda: UCGM(consistency_ratio=0, metric=Metric("pseudo_huber", c=0, cosine=1)),
        "equal",
        drop=True,
    ),
    Case(
        "UCGM",
        f"ratio 0, {MANY}, enhanced by 0.47",
        published_ucgm.ucgm(0, cosine=True, zeta=0.47),
        lambda: UCGM(
            consistency_ratio=0, metric=Metric("pseudo_huber", c=0, cosine=1), guidance=SelfEnhancedTarget(0.47)
        ),
        "equal",
        drop=True,
    ),
    *(
        Case(
            "UCGM",
            f"ratio {ratio:g}, {FEW}" + (f", enhanced by {zeta:g} (teacher)" if zeta else ""),
            published_ucgm.ucgm(ratio, zeta=zeta, c=5),
            lambda ratio=ratio, zeta=zeta: UCGM(
                consistency_ratio=ratio, guidance=None if zeta is None else TeacherEnhancedTarget(zeta)
            ),
            "zero",
            drop=True,
        )
        for ratio in (0.5, 1)
        for zeta in (None, 2.0)
    ),
    Case(
        "UCGM",
        f"ratio 1, {FEW}, enhanced by 2 (teacher), with the program's 1.57 for pi/2",
        published_ucgm.ucgm(1, zeta=2.0, c=5, half_pi=1.57),
        lambda: UCGM(guidance=TeacherEnhancedTarget(2.0)),
        "zero",
        drop=True,
        bound=5e-3,
    ),
    Case(
        "MeanFlow",
        "sum, weight 1/(sum + 0.01), forward-mode AD",
        loops.mean_flow(),
        _mean_flow(),
        "mixed",
        drop=True,
    ),
    Case(
        "MeanFlow",
        "the same, omega 0.2 and kappa 0.92 for t up to 0.75",
        loops.mean_flow(omega=0.2, kappa=0.92, upper=0.75),
        _mean_flow(guidance=MixedTarget(0.92, data=0.2, t_max=0.75, network="student")),
        "mixed",
        drop=True,
    ),
    Case(
        "MeanFlow",
        "sum, power 0.5, central difference, weight `beta08` (FastGen)",
        loops.mean_flow(power=0.5, difference=loops.DIFFERENCE, weight=loops.beta08),
        _mean_flow(
            adaptive=AdaptiveWeight(0.5, 0.01), derivative=Central(loops.DIFFERENCE), sample_weight=RootWeight()
        ),
        "mixed",
    ),
    *(
        Case(
            "sCM",
            f"sum, tangent over (norm + 0.1), {'distillation' if distilled else 'training'}",
            loops.scm(distilled=distilled),
            lambda distilled=distilled: SCM(
                derivative=ForwardMode(), reduce="sum", warmup_steps=0, supervision="teacher" if distilled else "data"
            ),
            "zero",
        )
        for distilled in (False, True)
    ),
    *(
        Case(
            "TiM",
            f"{name}, direction term, interval weight, weight 1/(loss + 1e-5)",
            tim(name),
            _tim(name),
            "mixed",
            drop=True,
        )
        for name in TIM_TRANSPORTS
    ),
    Case(
        "TiM",
        "linear, the same, guidance 0.75 for t in [0.3, 0.8], dropped samples too",
        tim("linear", guided=True),
        _tim("linear", guidance=MixedTarget(0.75, 0.3, 0.8, guide_dropped=True)),
        "mixed",
        drop=True,
    ),
    Case(
        "consistency model",
        "gap 1/64, squared distance of the data over the gap",
        loops.consistency(),
        lambda: Consistency(dt=1 / 64, clip=None, sample_weight=lambda t, r: t),
        "zero",
        value=False,
    ),
]
