import pytest
import torch
from torch import nn

from rcgm.engine import Engine, predict
from rcgm.engine.queries import Query, Tangent
from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching, MeanFlow
from rcgm.objectives.times import Times, TimeSampler

BATCH, EQUAL = 7, 2
REST = BATCH - EQUAL


class Spy:
    """A network that remembers what it was asked, and answers with something that every argument changes."""

    def __init__(self, name="target", log=None, factor=1.0):
        self.name, self.log, self.factor = name, [] if log is None else log, factor
        self.calls = []

    def __call__(self, x, t, r, cond):
        self.log.append(self.name)
        self.calls.append((x.clone(), t.clone(), r.clone(), cond))
        return self.answer(x, t, r, cond)

    def answer(self, x, t, r, cond):
        row = sum(leaf.double().reshape(len(x), -1).sum(1) for leaf in leaves(cond))
        scalar = t + 10 * r + 100 * row
        return self.factor * (x + scalar.to(x).reshape(-1, *[1] * (x.ndim - 1)))

    @property
    def batches(self):
        return [len(x) for x, *_ in self.calls]


def leaves(condition):
    if condition is None:
        return []
    if isinstance(condition, torch.Tensor):
        return [condition]
    return [
        leaf for part in (condition.values() if isinstance(condition, dict) else condition) for leaf in leaves(part)
    ]


class Student(nn.Module):
    """A network with a parameter, whose forwards are noted."""

    def __init__(self, name="student", log=None):
        super().__init__()
        self.name, self.log = name, [] if log is None else log
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.grad_modes, self.outputs = [], []

    def forward(self, x, t, r, cond):
        self.log.append(self.name)
        self.grad_modes.append(torch.is_grad_enabled())
        self.outputs.append((self.scale * x) ** 2)
        return self.outputs[-1]


def draw(shape=(BATCH, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator) for _ in range(2))
    t = 0.2 + 0.8 * torch.rand(shape[0], generator=generator)
    r = 0.5 * t
    r[:EQUAL] = t[:EQUAL]
    return x, z, Times(t, r, EQUAL)


def ask(*waves):
    """Queries that yield ``waves`` and return all answers."""

    def queries():
        answers = []
        for wave in waves:
            answers.append((yield wave))
        return answers

    return queries()


def query(seed=0, start=0, **kwargs):
    x, _, times = draw(seed=seed)
    return Query(x, times.t, times.r, start=start, **kwargs)


def same(answer, expected):
    torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-6)


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

LABEL = torch.arange(BATCH)
NESTS = {
    "tensor": (LABEL, torch.tensor([40])),
    "matrix": (LABEL[:, None] * torch.ones(4), torch.full((1, 4), 40.0)),
    "dict": ({"a": LABEL, "b": LABEL[:, None] * 3.0}, {"a": torch.tensor([40]), "b": torch.tensor([[50.0]])}),
    "nest": (
        (LABEL, {"image": [LABEL[:, None, None] * torch.ones(2, 2)]}),
        (torch.tensor([40]), {"image": [torch.full((1, 2, 2), 50.0)]}),
    ),
}


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


# Waves and evaluations of the objectives (the table of math.md section 2)


def table(points, order):
    """Sizes of the batched forwards, in units of one query."""
    if order == 0:
        return []
    if points == "rollout":
        return [1] * order
    if points == "jump":
        return [1] if order == 1 else [order - 1, order - 1]
    return [order]


@pytest.mark.parametrize("guidance", [None, EnhancedTarget(1.5)], ids=["unguided", "guided"])
@pytest.mark.parametrize("base", ["student", "target"])
@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_waves_and_evaluations(points, order, base, guidance):
    waves = table(points, order)
    sizes = [queries * REST for queries in waves]
    evaluations = sum(waves)
    if base == "target":
        # The whole batch, in the first wave.
        sizes = [BATCH + (sizes[0] if sizes else 0), *sizes[1:]]
        evaluations += 1
    if guidance is not None:
        sizes = [2 * BATCH, *sizes]
        evaluations += 2
    log = []
    student, target = Student("student", log), Spy("target", log)
    x, z, times = draw()
    objective = RCGM(order=order, points=points, base=base, guidance=guidance)
    out = objective(student, x, LABEL, target=target, null_cond=torch.tensor([40]), noise=z, times=times)
    assert target.batches == sizes
    assert (out.waves, out.evaluations) == (len(sizes), evaluations)
    assert log == ["target"] * len(sizes) + ["student"]


@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_the_price_of_a_way(points):
    """The formulas of the table, written out."""
    x, z, times = draw()
    for order in range(2, 8):
        out = RCGM(order=order, points=points)(Student(), x, target=Spy(), noise=z, times=times)
        expected = {"rollout": (order, order), "jump": (2, 2 * order - 2), "interpolant": (1, order)}[points]
        assert (out.waves, out.evaluations) == expected


@pytest.mark.parametrize("points", ["rollout", "jump", "interpolant"])
def test_a_batch_of_equal_times_costs_no_target_forward(points):
    target = Spy()
    x, _, _ = draw()
    objective = RCGM(order=3, points=points, times=TimeSampler(interval="equal"))
    out = objective(Student(), x, target=target, generator=torch.Generator().manual_seed(0))
    assert (out.waves, out.evaluations, target.calls) == (0, 0, [])
    assert torch.equal(out.t, out.r)


def test_flow_matching_asks_nothing():
    target = Spy()
    x, z, times = draw()
    out = FlowMatching()(Student(), x, target=target, noise=z, times=times)
    assert (out.waves, out.evaluations, target.calls) == (0, 0, [])


def test_base_and_guidance_ask_at_the_right_place():
    target = Spy()
    x, z, times = draw()
    objective = RCGM(order=2, base="target", guidance=EnhancedTarget(1.5))
    null = torch.tensor([40])
    objective(Student(), x, LABEL, target=target, null_cond=null, noise=z, times=times)
    t, r = times.t, times.r
    x_t = t[:, None] * z + (1 - t[:, None]) * x
    guidance, first, second = target.calls
    # Instantaneous velocities, with the condition and with the null one.
    same(guidance[0], torch.cat([x_t, x_t]))
    same(guidance[1], torch.cat([t, t]))
    same(guidance[2], torch.cat([t, t]))
    assert torch.equal(guidance[3], torch.cat([LABEL, null.repeat(BATCH)]))
    # The base over the whole interval, for all samples, and the first segment for those that have one.
    same(first[0][:BATCH], x_t)
    assert torch.equal(first[1][:BATCH], t)
    assert torch.equal(first[2][:BATCH], r)
    assert torch.equal(first[3], torch.cat([LABEL, LABEL[EQUAL:]]))
    same(first[1][BATCH:], t[EQUAL:] - 0.01)
    same(first[2][BATCH:], (t[EQUAL:] - 0.01 + r[EQUAL:]) / 2)
    same(second[1], first[2][BATCH:])
    same(second[2], r[EQUAL:])
    assert torch.equal(second[3], LABEL[EQUAL:])


@pytest.mark.parametrize("name", NESTS)
def test_nests_reach_student_and_target(name):
    cond, null = NESTS[name]
    target, student = Spy(), Spy("student")
    x, z, times = draw()
    RCGM(order=3, points="jump", guidance=EnhancedTarget(1.0), base="target")(
        student, x, cond, target=target, null_cond=null, noise=z, times=times
    )
    rows = [torch.arange(BATCH), torch.full((BATCH,), -1)]  # -1: the null condition
    kept = rows[0][EQUAL:]
    expected = [torch.cat(rows), torch.cat([rows[0], kept, kept]), torch.cat([kept, kept])]
    for call, order in zip(target.calls, expected, strict=True):
        for leaf, whole, instead in zip(leaves(call[3]), leaves(cond), leaves(null), strict=True):
            assert leaf.shape == (len(order), *whole.shape[1:])
            for row, index in zip(leaf, order.tolist(), strict=True):
                assert torch.equal(row, instead[0] if index < 0 else whole[index])
    for leaf, whole in zip(leaves(student.calls[0][3]), leaves(cond), strict=True):
        assert torch.equal(leaf, whole)


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
