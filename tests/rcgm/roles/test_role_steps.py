"""Roles in training steps: recomputed activations, compiled blocks, averages."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

pytest.importorskip("peft")

from rcgm.config import ParallelConfig
from rcgm.distributed import parallelize
from rcgm.roles import base_of
from rcgm.training import Ema
from tests.support.roles import disturb, small_role
from tests.support.small_dit import inputs


def gradients(recomputation: str, compile: bool | str = False) -> list[torch.Tensor]:
    """Of the student, after another role and the base ran between its forward and its backward."""
    student = small_role()
    target = copy.deepcopy(student).requires_grad_(False)
    disturb(target, 2)
    settings = ParallelConfig(activation_checkpointing=recomputation)
    parallelize(student, settings, None, compile=compile, keep_gathered=True)
    prediction = student(*inputs())
    with torch.no_grad():
        between = target(*inputs()) + student.without_adapter()(*inputs())
    (prediction - between).square().mean().backward()
    return [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize(
    ("recomputation", "compile"), [("selective", False), ("full", False), ("selective", "aot_eager")]
)
def test_activations_are_recomputed_in_the_role_of_their_forward(recomputation, compile):
    expected = gradients("none")
    for gradient, wanted in zip(gradients(recomputation, compile), expected, strict=True):
        assert wanted.any()
        # compiled blocks may sum in another order
        assert (gradient - wanted).abs().max() <= (1e-5 if compile else 0) * wanted.abs().max()


def test_a_change_of_roles_compiles_nothing_after_the_first_step():
    torch._dynamo.reset()
    student = small_role()
    target = copy.deepcopy(student).requires_grad_(False)
    teacher = student.without_adapter()
    parallelize(student, ParallelConfig(), None, compile="eager", keep_gathered=True)

    def step() -> None:
        with torch.no_grad():
            between = target(*inputs()) + teacher(*inputs()) + student(*inputs())
        (student(*inputs()) - between).square().mean().backward()

    counted = []
    for _ in range(3):
        before = counters["stats"]["unique_graphs"]
        step()
        counted.append(counters["stats"]["unique_graphs"] - before)
    # The blocks share their graphs: of the target, the teacher, and the student with gradient and without.
    assert counted[0] >= 4
    assert counted[1:] == [0, 0]


def test_the_average_of_a_role_is_a_role_on_its_base():
    student = small_role()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    ema = Ema(student, 0.75, warmup=False, target_decay=0.5, target_warmup=False, cast=torch.bfloat16)
    disturb(student, 2)
    ema.step()
    assert all(base_of(network) is base_of(student) for network in ema.copies)
    slow, fast, cast = (network.state_dict() for network in ema.copies)
    eps = torch.finfo(torch.float32).eps
    for name, now in student.state_dict().items():
        for average, decay in ((slow, 0.75), (fast, 0.5)):
            expected = decay * before[name] + (1 - decay) * now
            largest = torch.maximum(before[name].abs(), now.abs())
            assert ((average[name] - expected).abs() <= 2 * eps * largest).all()
        assert torch.equal(cast[name], fast[name].bfloat16())
    with torch.no_grad():
        assert not torch.equal(ema.network(*inputs()), student(*inputs()))
        assert not torch.equal(ema.target(*inputs()), ema.second.network(*inputs()))
