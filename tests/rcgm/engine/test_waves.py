"""What an engine makes of waves of queries: batched forwards, conditions row by row, no autograd state."""

import pytest
import torch

from rcgm.engine import Engine, Query
from rcgm.objectives import RCGM
from tests.support.spies import BATCH, EQUAL, NESTS, REST, Spy, Student, ask, draw, query, same

# Waves of queries


def test_a_wave_is_one_forward_and_answers_in_order():
    spy = Spy()
    engine = Engine({"target": spy})
    wave = [query(seed) for seed in range(3)]
    (answers,) = engine.run(ask(wave))
    assert spy.batches == [3 * BATCH]
    assert (engine.waves, engine.evaluations) == (1, 3)
    for asked, answer in zip(wave, answers, strict=True):
        same(answer, spy.answer(asked.x, asked.t, asked.r, None))


def test_waves_follow_one_another():
    spy = Spy()
    engine = Engine({"target": spy})
    first, second = engine.run(ask([query(0)], [query(1), query(2)]))
    assert spy.batches == [BATCH, 2 * BATCH]
    assert (engine.waves, engine.evaluations) == (2, 3)
    assert (len(first), len(second)) == (1, 2)


def test_a_later_wave_can_depend_on_an_earlier_answer():
    def queries():
        asked = query()
        (first,) = yield [asked]
        (second,) = yield [Query(first, asked.t, asked.r)]
        return second

    spy, asked = Spy(), query()
    expected = spy.answer(spy.answer(asked.x, asked.t, asked.r, None), asked.t, asked.r, None)
    same(Engine({"target": spy}).run(queries()), expected)


def test_each_network_of_a_wave_is_asked_once():
    log = []
    networks = {"target": Spy("target", log), "student": Spy("student", log, factor=-2.0)}
    engine = Engine(networks)
    wave = [query(0), query(1, network="student"), query(2), query(3, network="student")]
    (answers,) = engine.run(ask(wave))
    assert log == ["target", "student"]
    assert networks["target"].batches == networks["student"].batches == [2 * BATCH]
    assert (engine.waves, engine.evaluations) == (1, 4)
    for asked, answer in zip(wave, answers, strict=True):
        same(answer, networks[asked.network].answer(asked.x, asked.t, asked.r, None))


def test_leading_samples_are_left_out():
    spy = Spy()
    engine = Engine({"target": spy})
    wave = [query(0, start=EQUAL), query(1), query(2, start=BATCH - 1)]
    (answers,) = engine.run(ask(wave))
    assert spy.batches == [REST + BATCH + 1]
    for asked, answer in zip(wave, answers, strict=True):
        assert answer.shape == asked.x.shape
        assert not answer[: asked.start].any()
        same(answer[asked.start :], spy.answer(asked.x, asked.t, asked.r, None)[asked.start :])


def test_queries_of_no_samples_are_not_asked():
    spy = Spy()
    engine = Engine({"target": spy})
    (first, second) = engine.run(ask([query(0, start=BATCH), query(1, start=BATCH)], [query(2, start=BATCH), query(3)]))
    assert spy.batches == [BATCH]
    assert (engine.waves, engine.evaluations) == (1, 1)
    assert all(not answer.any() for answer in [*first, second[0]])
    assert second[1].any()


def test_an_empty_wave_is_none():
    spy = Spy()
    engine = Engine({"target": spy})
    assert engine.run(ask([])) == [[]]
    assert (engine.waves, engine.evaluations, spy.calls) == (0, 0, [])


# Conditions


@pytest.mark.parametrize("name", NESTS)
def test_conditions_ride_along_row_by_row(name):
    cond, null = NESTS[name]
    # As the objective does before it makes the engine.
    null = _repeat(null)
    spy = Spy()
    wave = [query(0), query(1, null=True), query(2, start=EQUAL), query(3, null=True, start=EQUAL)]
    (answers,) = Engine({"target": spy}, cond, null).run(ask(wave))
    assert spy.batches == [2 * BATCH + 2 * REST]
    for asked, answer in zip(wave, answers, strict=True):
        expected = spy.answer(asked.x, asked.t, asked.r, null if asked.null else cond)
        same(answer[asked.start :], expected[asked.start :])


def _repeat(null):
    if isinstance(null, dict):
        return {key: _repeat(part) for key, part in null.items()}
    if isinstance(null, (tuple, list)):
        return type(null)(_repeat(part) for part in null)
    return null.repeat(BATCH, *[1] * (null.ndim - 1))


def test_no_condition_stays_none():
    spy = Spy()
    Engine({"target": spy}).run(ask([query(0), query(1, null=True)]))
    assert spy.calls[0][3] is None


# Autograd state


def test_no_autograd_state_in_target_forwards():
    network = Student()
    engine = Engine({"target": network})
    with torch.enable_grad():
        ((answer,),) = engine.run(ask([query()]))
    assert network.grad_modes == [False]
    assert network.outputs[0].grad_fn is None
    assert not answer.requires_grad


@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_targets_run_before_the_student_and_without_graph(points):
    log = []
    student, target = Student("student", log), Student("target", log)
    x, z, times = draw()
    x.requires_grad_()
    saved = []
    objective = RCGM(order=3, points=points, base="target")

    def note(tensor):
        saved.append(list(log))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = objective(student, x, target=target, noise=z, times=times)
    assert log == ["target"] * out.waves + ["student"]
    assert not any(target.grad_modes)
    assert student.grad_modes == [True]
    # Nothing is kept for the backward pass before the student's forward begins.
    assert saved
    assert all("student" in calls for calls in saved)
    out.loss.backward()
    assert target.scale.grad is None
    assert student.scale.grad is not None
    assert x.grad is None


def test_the_student_is_its_own_target_without_gradient():
    student = Student()
    x, z, times = draw()
    out = RCGM(order=2)(student, x, noise=z, times=times)
    assert student.grad_modes == [False, False, True]
    out.loss.backward()
    assert student.scale.grad.abs() > 0
