"""Nothing in a training step has the host wait for the device."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from rcgm.adversarial import Discriminator, Heads
from rcgm.config import DiscriminatorConfig
from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.models import MLP
from rcgm.objectives import (
    OBJECTIVES,
    RCGM,
    SCM,
    EnhancedTarget,
    FlowMatching,
    ImprovedMeanFlow,
    InputGuidance,
    MeanFlow,
    MixedTarget,
    Objective,
    RootWeight,
    SelfAdversarial,
    TiM,
)
from rcgm.objectives.times import TimeSampler
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support.synchronisation import NothingWaits, WouldWaitError

CLASSES = 3
CASES = {
    **OBJECTIVES,
    "rcgm, order 0": lambda: RCGM(order=0),
    "rcgm, order 4, jump": lambda: RCGM(order=4, points="jump", times=TimeSampler(equal=0.3)),
    "rcgm, float16 targets": lambda: RCGM(target_dtype="float16", adaptive=AdaptiveWeight()),
    "rcgm, labels dropped": lambda: RCGM(label_dropout=0.5, metric=Metric("pseudo_huber", 0.1)),
    "mean flow, guided": lambda: MeanFlow(guidance=MixedTarget(1.5)),
    "mean flow, forward mode": lambda: MeanFlow(derivative=ForwardMode()),
    "mean flow, auto": lambda: MeanFlow(derivative=Auto(), times=TimeSampler(equal=0.5)),
    "mean flow, order 4": lambda: MeanFlow(derivative=Central(order=4)),
    "tim, one-sided": lambda: TiM(derivative=OneSided()),
    "flow matching, enhanced": lambda: FlowMatching(guidance=EnhancedTarget(1.5)),
    "flow matching, beta times": lambda: FlowMatching(times=TimeSampler("beta", 1.2, 0.8, interval="equal")),
    "rcgm, weighted by its times": lambda: RCGM(sample_weight=RootWeight(), normalize=0.1, normalize_scale=2.0),
    "tim, as published": lambda: TiM(
        metric=Metric(cosine=1.0),
        adaptive=AdaptiveWeight(1.0, 1e-5, of="loss"),
        label_dropout=0.5,
        guidance=MixedTarget(0.75, guide_dropped=True),
    ),
    "mean flow, r of its own": lambda: MeanFlow(
        reduce="sum", times=TimeSampler(interval="independent", r_distribution="beta", r_a=2.0)
    ),
    "guidance as an input": lambda: ImprovedMeanFlow(guidance=InputGuidance(), label_dropout=0.5),
    "mean flow, its own adversary": lambda: MeanFlow(self_adversarial=SelfAdversarial()),
    "scm, learned weight": lambda: SCM(weighting="learned"),
}


def network() -> MLP:
    return MLP(dim=2, width=8, depth=2, frequency_size=4, num_classes=CLASSES, guidance_input=True)


def adversary(objective: Objective, optimizer: type[torch.optim.Optimizer], device: str) -> Adversary:
    config = DiscriminatorConfig(starts=(1.0, 0.5), penalty=0.1, loss="relativistic")
    heads = Heads([2], 8).to(device)
    discriminator = Discriminator(lambda x, t, cond: [x[:, None]], heads, objective.transport, config.settings())
    built = Adversary(discriminator, config, seed=0, autocast=torch.bfloat16)
    built.optimizer = optimizer(heads.parameters(), lr=0.1)
    return built


def step_of(
    objective: Objective, optimizer: type[torch.optim.Optimizer], device: str, *, judged: bool = False
) -> tuple[TrainStep, tuple]:
    """A training step with all that may be asked of it, and a batch."""

    def call(*arguments, teacher, **options):
        return objective(*arguments, teacher=teacher if objective.needs_teacher() else None, **options)

    student, teacher = network().to(device), network().to(device).requires_grad_(False)
    learned = objective.state().to(device).parameters()
    options = {"accumulate": 2, "autocast": torch.bfloat16, "clip_grad_norm": 1.0}
    null = torch.full((1,), CLASSES, device=device)
    if judged:
        options["adversary"] = adversary(objective, optimizer, device)
    step = TrainStep(
        student, call, optimizer([*student.parameters(), *learned], lr=0.1), Ema(student, 0.99), seed=0,
        null_cond=null, teacher=teacher, **options,
    )  # fmt: skip
    return step, (torch.randn(8, 2, device=device), torch.zeros(8, dtype=torch.long, device=device))


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a CPU the backward pass reads the factor of the gradient, where that costs nothing.
    monkeypatch.setattr("rcgm_kernels.loss_operator._graph_is_kept", lambda: True)
    # SGD: other optimizers read the number of their step, which they keep on the CPU for parameters there.
    step, batch = step_of(CASES[name](), torch.optim.SGD, "cpu", judged=name == "rcgm")
    with NothingWaits():
        results = [step(number, *batch, want_grad_norm=True) for number in range(3)]
    assert all(result.loss.isfinite() and result.grad_norm.isfinite() for result in results)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.index_put_((x > 0,), x),
        lambda x: x + torch.tensor([1.0], device=x.device),
        lambda x: torch.as_tensor(0.5, device=x.device) * x,
        lambda x: x.masked_select(x > 0),
    ],
)
def test_what_waits_is_found(waiting) -> None:
    x = torch.ones(3)
    with NothingWaits(), pytest.raises(WouldWaitError):
        waiting(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_on_a_gpu(name: str) -> None:
    step, batch = step_of(CASES[name](), partial(torch.optim.AdamW, fused=True), "cuda", judged=name == "rcgm")
    step(0, *batch, want_grad_norm=True)  # what libraries set up in their first call may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (1, 2):
            step(number, *batch, want_grad_norm=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
