"""Networks that cannot be made to draw the same random numbers are refused where it matters."""

import pytest
import torch

from rcgm.engine import GraphedNetwork
from rcgm.objectives import RCGM, SCM, UCGM, Consistency, MeanFlow, Shortcut
from rcgm.training.ema import Ema
from tests.support.dropping import Dropping, batch


def call(objective, student, target=None, **options):
    x, z, _, times = batch()
    return objective(student, x, target=target, noise=z, times=times, **options)


SUBTRACTED = {
    "rcgm": lambda: RCGM(),
    "rcgm, base again": lambda: RCGM(base="again"),
    "rcgm, base target": lambda: RCGM(base="target", network="student"),
    "consistency": lambda: Consistency(network="target"),
    "ucgm": lambda: UCGM(consistency_ratio=0.5, network="target"),
}


@pytest.mark.parametrize("name", SUBTRACTED)
def test_a_target_in_another_mode_is_refused_where_it_is_subtracted(name):
    student, target = Dropping(), Dropping().requires_grad_(False)
    call(SUBTRACTED[name](), student, target)
    with pytest.raises(ValueError, match=r"put both in training mode \(target.train\(\)\), or let them draw nothing"):
        call(SUBTRACTED[name](), student, target.eval())
    call(SUBTRACTED[name](), student.eval(), target)


@pytest.mark.parametrize("objective", [Shortcut(), SCM(network="target"), RCGM(base="target"), RCGM(network="student")])
def test_a_target_in_another_mode_is_fine_where_it_is_regressed_on(objective):
    assert call(objective, Dropping(), Dropping().requires_grad_(False).eval()).loss.isfinite()


def test_targets_in_another_format_are_refused():
    network = Dropping(torch.float32)
    with pytest.raises(ValueError, match=r"student network runs in bfloat16 and the step in float32.*target_dtype"):
        call(MeanFlow(target_dtype="bfloat16"), network)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(MeanFlow(target_dtype="bfloat16"), network).loss.isfinite()
    assert call(MeanFlow(target_dtype="bfloat16"), network.eval()).loss.isfinite()


def test_a_cast_average_is_refused():
    student = Dropping(torch.float32)
    target = Ema(student, 0.9, cast=torch.bfloat16).target
    with pytest.raises(ValueError, match=r"target network runs in bfloat16 and the step in float32.*ema\.cast"):
        call(RCGM(), student, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(RCGM(), student, target).loss.isfinite()


def test_a_student_that_draws_otherwise_without_gradient_is_refused():
    class Sometimes(Dropping):
        def forward(self, *arguments):
            if torch.is_grad_enabled():
                torch.rand(())
            return super().forward(*arguments)

    with pytest.raises(ValueError, match="draws other random numbers in its forwards without gradient"):
        call(MeanFlow(), Sometimes())


class Runs:
    """Records by running."""

    def supports(self, device):
        return True

    def record(self, forward, device):
        return forward


def test_graphs_of_networks_that_draw_are_refused():
    x, _, _, times = batch()
    network = Dropping().requires_grad_(False)
    captured = GraphedNetwork(network.eval(), recorder=Runs())
    with torch.no_grad():
        captured(x, times.t, times.r)
        network.train()
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match="cannot be captured in a CUDA graph: set cuda_graphs to false"):
            captured(x, times.t, times.r)
    assert torch.equal(torch.get_rng_state(), before)
