"""Networks that return something else, and the modes that networks run in."""

import pytest
import torch
from torch import nn

from rcgm.engine import Engine, Query, Tangent, predict
from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching, MeanFlow
from tests.support.spies import BATCH, EQUAL, Spy, ask, draw, query, same

# Networks that return something else


def wrong_shape(x, t, r, cond):
    return x[:, :2]


def test_target_of_another_shape():
    with pytest.raises(ValueError, match=r"target network must return the shape of its input, \[7, 3\], got \[7, 2\]"):
        Engine({"target": wrong_shape}).run(ask([query()]))


def test_student_of_another_shape():
    x, z, times = draw()
    with pytest.raises(ValueError, match=r"student network must return the shape of its input, \[7, 3\], got \[7, 2\]"):
        FlowMatching()(wrong_shape, x, noise=z, times=times)


@pytest.mark.parametrize(("output", "name"), [((torch.zeros(7, 3),), "tuple"), (None, "NoneType")])
def test_network_that_returns_no_tensor(output, name):
    x = torch.zeros(7, 3)
    with pytest.raises(TypeError, match=f"the student network must return a tensor, got {name}"):
        predict("student", lambda *_: output, x, x[:, 0], x[:, 0], None)


def test_unknown_network():
    with pytest.raises(ValueError, match="teacher must be given"):
        Engine({"target": Spy()}).run(ask([query(network="teacher")]))


# Modes


class Modes(nn.Module):
    """A network that notes the mode it runs in."""

    def __init__(self, trained):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=trained)
        self.inference = []

    def forward(self, x, t, r, cond):
        self.inference.append(torch.is_inference_mode_enabled())
        assert not torch.is_grad_enabled() or self.scale.requires_grad
        return self.scale * x * t[:, None]


class Wrapper:
    def __init__(self, network):
        self.network = network

    def __call__(self, *arguments):
        return self.network(*arguments)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_only_networks_that_nobody_trains_run_under_inference_mode(trained, wrapped):
    network = Modes(trained)
    engine = Engine({"target": Wrapper(network) if wrapped else network, "student": lambda *point: network(*point)})
    wave = [query(0), query(1, network="student"), query(2, start=EQUAL)]
    engine.run(ask(wave))
    assert network.inference == [not trained, False]  # what hides a network may be training it


def test_forward_mode_runs_without_inference_mode():
    network = Modes(trained=False)
    asked = query(0)
    tangent = Tangent(torch.ones_like(asked.x))
    ((derivative,),) = Engine({"target": network}).run(ask([Query(asked.x, asked.t, asked.r, tangent=tangent)]))
    same(derivative, 0.5 * (asked.t[:, None] + asked.x))
    assert network.inference == [False]


def test_answers_of_frozen_networks_train_the_student():
    student, target = Modes(trained=True), Modes(trained=False)
    x, z, times = draw()
    for objective in (RCGM(order=3), RCGM(points="jump"), MeanFlow(), FlowMatching(guidance=EnhancedTarget(0.5))):
        student.zero_grad()
        cond, null = torch.zeros(BATCH), torch.zeros(1)
        objective(student, x, cond, target=target, null_cond=null, noise=z, times=times).loss.backward()
        assert student.scale.grad.isfinite()
    assert any(target.inference)
    assert not any(student.inference)
