"""However a step is split into micro-batches, it is the same step; with processes: ``test_shared_steps.py``."""

import copy
import itertools

import pytest
import torch

from rcgm.models import MLP
from rcgm.objectives import (
    DECM,
    FACM,
    RCGM,
    SCM,
    UCGM,
    AlphaFlow,
    Consistency,
    EnhancedTarget,
    FlowMatching,
    ImprovedMeanFlow,
    InputGuidance,
    MeanFlow,
    Objective,
    SelfAdversarial,
    Shortcut,
    TiM,
    TwinFlow,
)
from rcgm.objectives.times import TimeSampler
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep

ROWS, CLASSES = 16, 3
OBJECTIVES = {
    "rcgm": lambda: RCGM(order=2, times=TimeSampler(equal=0.3, zero=0.2), label_dropout=0.3),
    "guided": lambda: RCGM(order=1, dt=0.1, guidance=EnhancedTarget(0.5), label_dropout=0.3),
    "alpha_flow": lambda: AlphaFlow(alpha=0.2, order=2, label_dropout=0.3),
    "mean_flow": lambda: MeanFlow(label_dropout=0.3),
    "improved_mean_flow": ImprovedMeanFlow,
    "guidance as an input": lambda: ImprovedMeanFlow(guidance=InputGuidance(), label_dropout=0.3),
    "tim": TiM,
    "twinflow": lambda: TwinFlow(label_dropout=0.3, guidance=EnhancedTarget(0.5)),
    "self-adversarial term": lambda: MeanFlow(self_adversarial=SelfAdversarial()),
    "ucgm": UCGM,
    "ucgm at ratio 0": lambda: UCGM(consistency_ratio=0.0, label_dropout=0.3),
    "shortcut": Shortcut,
    "scm": lambda: SCM(warmup_steps=0, weighting="learned"),
    "decm": DECM,
    "facm": FACM,
    "consistency": Consistency,
    "flow_matching": FlowMatching,
}


def a_step(objective: Objective, accumulate: int, step: int) -> tuple[torch.Tensor, list[torch.Tensor], list[tuple]]:
    """Loss, gradients, and what was drawn for each row: the times, sorted."""
    student = MLP(dim=2, width=8, depth=2, frequency_size=4, num_classes=CLASSES, guidance_input=True).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    memory = objective.state().double()
    parameters = [*student.parameters(), *memory.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    gradients, drawn = [], []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(parameter.grad.clone() for parameter in parameters if parameter.grad is not None)
    )

    def watched(*arguments, **options):
        output = objective(*arguments, **options)
        rows = zip(output.t.tolist(), output.r.tolist(), strict=True)
        drawn.append(list(rows))
        return output

    train = TrainStep(
        student,
        watched,
        optimizer,
        Ema(copy.deepcopy(student), 0.9),
        seed=4,
        accumulate=accumulate,
        null_cond=torch.tensor([CLASSES]),
    )
    x = torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)
    result = train(step, x, torch.randint(CLASSES, (ROWS,), generator=generator))
    return result.loss, gradients, drawn


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_make_the_step_of_the_whole_batch(name):
    loss, gradients, drawn = a_step(OBJECTIVES[name](), 1, 3)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    assert gradients and largest > 0
    for accumulate in (2, 4, 8, 16, 5):
        same_loss, same, pieces = a_step(OBJECTIVES[name](), accumulate, 3)
        assert len(pieces) == accumulate
        assert sorted(itertools.chain(*pieces)) == sorted(drawn[0])
        torch.testing.assert_close(same_loss, loss, rtol=1e-10, atol=0)
        for got, expected in zip(same, gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize(("objective", "equal"), [(MeanFlow(), 0.75), (TiM(), 0.5)])
@pytest.mark.parametrize("accumulate", [1, 2, 4, 8, 16])
def test_each_micro_batch_has_its_part_of_the_shares(objective, equal, accumulate):
    for step in range(3):
        _, _, drawn = a_step(objective, accumulate, step)
        counts = [sum(t == r for t, r in rows) for rows in drawn]
        assert sum(counts) == equal * ROWS
        assert max(counts) - min(counts) <= 1
