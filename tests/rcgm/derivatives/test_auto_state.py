"""What the choice of a step keeps: the same bits for the same calls, saved and resumed with a run."""

import copy
import dataclasses

import torch

from rcgm.derivatives import Auto
from rcgm.objectives import MeanFlow, Times
from tests.support.noisy import SIZE, Noisy, draw, run


def test_the_same_calls_give_the_same_bits():
    values = []
    for _ in range(2):
        network, estimator = Noisy(1e-3), Auto(every=3)
        values.append([run(estimator, network, *draw(seed=call)).value() for call in range(8)])
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_it_resumes_bit_for_bit():
    network, estimator = Noisy(1e-3), Auto(every=3)
    for call in range(5):
        run(estimator, network, *draw(seed=call))
    saved = {name: tensor.clone() for name, tensor in estimator.state().state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.values())
    resumed, later = Auto(every=3), copy.deepcopy(network.generator.get_state())
    resumed.state().load_state_dict(saved)
    outcomes = []
    for each in (estimator, resumed):
        network.generator.set_state(later)
        outcomes.append([run(each, network, *draw(seed=call)).value() for call in range(5, 12)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    for name, tensor in estimator.state().state_dict().items():
        assert torch.equal(tensor, resumed.state().state_dict()[name])


def test_a_state_of_earlier_versions_is_read():
    network, estimator = Noisy(1e-3), Auto()
    run(estimator, network, *draw())
    state = estimator.state().state_dict()
    assert state["differences"].any()
    old = {{"differences": "slopes"}.get(name, name): tensor.clone() for name, tensor in state.items()}
    resumed = Auto()
    resumed.state().load_state_dict(old)
    for name, tensor in state.items():
        assert torch.equal(tensor, resumed.state().state_dict()[name])


def test_an_objective_keeps_it_in_its_memory_and_reports_it():
    objective = MeanFlow(derivative=Auto())
    memory = objective.state()
    assert memory["derivative"] is objective.derivative.state()
    assert not list(memory.parameters())
    assert {"derivative_step", "derivative_noise", "derivative_curvature"} <= set(objective.report())
    x, z = torch.randn(2, 8, SIZE, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.3, 0.9, 8)
    objective(lambda x, t, r, cond: (x * 3).sin() * t[:, None], x, noise=z, times=Times(t, t / 3))
    assert memory.state_dict()["derivative._extra_state"] == 1
    assert objective.report()["derivative_step"] > 0
    # what differs in its settings alone goes on with the same measurements
    assert dataclasses.replace(objective, clip=1.0).state()["derivative"] is memory["derivative"]


def test_autocast_of_the_training_step_does_not_touch_it():
    steps = []
    for enabled in (False, True):
        network, estimator = Noisy(1e-3), Auto()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(3):
                run(estimator, network, *draw())
        steps.append(estimator.report())
    assert steps[0] == steps[1]
