"""Roles in training steps: recomputed activations, compiled blocks, averages."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

pytest.importorskip("peft")

from rcgm.config import ParallelConfig
from rcgm.distributed import parallelize
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
