"""Networks that draw random numbers in their forwards: every evaluation of a sample draws the same."""

import copy

import pytest
import torch

from rcgm.config import ParallelConfig
from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.distributed import parallelize
from rcgm.engine.cuda_graphs import GraphedNetwork
from rcgm.objectives import (
    DECM,
    RCGM,
    SCM,
    UCGM,
    Consistency,
    EnhancedTarget,
    FlowMatching,
    MeanFlow,
    MixedTarget,
    Shortcut,
    TeacherEnhancedTarget,
    TiM,
)
from rcgm.objectives.times import Times, TimeSampler
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep
from rcgm_kernels import Metric
from tests.support.dropping import DIM, WIDTH, Dropping, masks, mean_flow, recursive

BATCH, EQUAL = 8, 3
STEP = 1 / 128
# float64, and no more than some hundred roundings, of which differences divide the largest by a step of 1/128
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
SOME_EQUAL = TimeSampler(equal=0.4)


def batch():
    generator = torch.Generator().manual_seed(1)
    x, z = (torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    shift = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    # multiples of 1/64, which float32 holds exactly, and their differences
    t = torch.tensor([20, 35, 50, 60, 25, 42, 31, 57]) / 64
    r = torch.tensor([20, 35, 50, 10, 5, 20, 8, 30]) / 64
    return x, z, shift, Times(t, r, EQUAL)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def assert_same(one, other):
    for value, expected in zip(one, other, strict=True):
        torch.testing.assert_close(value, expected, **CLOSE)


OBJECTIVES = {
    "mean flow": lambda: MeanFlow(times=SOME_EQUAL),
    "mean flow, order 4": lambda: MeanFlow(times=SOME_EQUAL, derivative=Central(order=4)),
    "mean flow, one-sided": lambda: MeanFlow(times=SOME_EQUAL, derivative=OneSided()),
    "mean flow, jvp": lambda: MeanFlow(times=SOME_EQUAL, derivative=ForwardMode()),
    "mean flow, auto": lambda: MeanFlow(times=SOME_EQUAL, derivative=Auto(every=1)),
    "mean flow, guided by the student": lambda: MeanFlow(
        times=SOME_EQUAL, guidance=MixedTarget(0.7, network="student"), label_dropout=0.3
    ),
    "rcgm, rollout": lambda: RCGM(order=3, times=SOME_EQUAL),
    "rcgm, jump": lambda: RCGM(order=4, points="jump", times=SOME_EQUAL, guidance=EnhancedTarget(0.5)),
    "rcgm, interpolant": lambda: RCGM(order=3, points="interpolant", base="target", times=SOME_EQUAL),
    "rcgm, base again": lambda: RCGM(base="again", times=SOME_EQUAL),
    "consistency": lambda: Consistency(network="target"),
    "ucgm": lambda: UCGM(),
    "ucgm, ratio 1/2": lambda: UCGM(consistency_ratio=0.5, network="target", times=SOME_EQUAL),
    "ucgm, taught": lambda: UCGM(guidance=TeacherEnhancedTarget(0.5)),
    "scm": lambda: SCM(warmup_steps=0),
    "scm, jvp": lambda: SCM(warmup_steps=0, derivative=ForwardMode(), network="target"),
    "shortcut": lambda: Shortcut(times=TimeSampler(interval="dyadic", equal=0.4)),
    "tim": lambda: TiM(),
    "decm": lambda: DECM(metric=Metric()),
    "flow matching": lambda: FlowMatching(guidance=EnhancedTarget(0.5)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_evaluations_of_a_sample_draw_the_same(name):
    """As with masks that ride along as conditions, for which nothing has to be drawn."""
    x, _, shift, _ = batch()
    results = []
    for drawing in (True, False):
        objective = OBJECTIVES[name]()
        networks = {"student": Dropping(), "target": Dropping(), "teacher": Dropping()}
        for network in list(networks.values())[1:]:
            network.requires_grad_(False)
        with torch.no_grad():
            networks["target"].output.weight.mul_(1.1)
        torch.manual_seed(3)
        for step in range(2):
            cond, null = {"shift": shift}, {"shift": torch.zeros(1, WIDTH, dtype=torch.float64)}
            if not drawing:
                drawn = masks(BATCH)
                cond, null = {"shift": shift, "masks": drawn}, {"shift": torch.zeros_like(shift), "masks": drawn}
            out = objective(
                networks["student"], x, cond, target=networks["target"], teacher=networks["teacher"], null_cond=null,
                generator=torch.Generator().manual_seed(step), step=step,
            )  # fmt: skip
            results.append([out.loss.detach(), *gradients(networks["student"], out.loss)])
            if not drawing:  # as one forward has it
                networks["student"](x, out.t[:BATCH], out.r[:BATCH])
    drawn, given = results[:2], results[2:]
    for one, other in zip(drawn, given, strict=True):
        assert_same(one, other)


LOOPS = {
    "mean flow": (
        lambda: MeanFlow(derivative=Central(STEP), adaptive=None),
        lambda student, target, *rows: mean_flow(student, *rows, STEP),
        0,
    ),
    # the loop has no case for r = t
    "rcgm": (lambda: RCGM(dt=1 / 64), lambda student, target, *rows: recursive(student, target, *rows, 1 / 64), EQUAL),
}
WAYS = [(False, "none"), (False, "full"), (False, "selective"), ("aot_eager", "full"), ("inductor", "selective")]


@pytest.mark.parametrize(("compiled", "checkpointing"), WAYS)
def test_published_loops(compiled, checkpointing):
    """Also where activations are computed again, and where blocks are compiled (one loop, as that takes long)."""
    student = Dropping()
    target = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        target.output.weight.mul_(1.1)
    for network in (student, target):
        config = ParallelConfig(activation_checkpointing=checkpointing)
        parallelize(network, config, None, compile=compiled, keep_gathered=True)
    x, z, _, times = batch()
    for build, loop, start in list(LOOPS.values())[: 1 if compiled else None]:
        results, ends = [], []
        given = Times(times.t[start:], times.r[start:], EQUAL - start)
        for published in (False, True):
            torch.manual_seed(5)
            if published:
                loss = loop(student, target, x[start:], z[start:], given.t, given.r)
            else:
                loss = build()(student, x[start:], target=target, noise=z[start:], times=given).loss
            results.append([loss.detach(), *gradients(student, loss)])
            ends.append(torch.get_rng_state())
        assert_same(*results)
        assert torch.equal(*ends)


def test_the_next_step_draws_other_numbers():
    x, z, _, times = batch()
    network, objective = Dropping(), MeanFlow()
    torch.manual_seed(5)
    losses = {float(objective(network, x, noise=z, times=times).loss.detach()) for _ in range(3)}
    assert len(losses) == 3


def test_a_network_that_draws_nothing_leaves_the_generator_alone():
    x, z, _, times = batch()
    network = Dropping().eval()
    before = torch.get_rng_state()
    RCGM(order=3, points="jump")(network, x, noise=z, times=times).loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_it_costs():
    """A forward for each query, of all rows; in the first step, once the forward of both that showed the draws."""
    x, z, _, times = batch()
    network, objective = Dropping(), MeanFlow(derivative=Central(STEP))

    def counted():
        network.forwards = 0
        out = objective(network, x, noise=z, times=times)
        assert (out.waves, out.evaluations) == (1, 2)
        return network.forwards, out.rows

    rest = BATCH - EQUAL
    assert counted() == (1 + 2 + 1, 2 * rest + 2 * BATCH)
    assert counted() == (2 + 1, 2 * BATCH)
    network.eval()
    assert counted() == (2 + 1, 2 * BATCH)  # this one shows that it has stopped
    assert counted() == (1 + 1, 2 * rest)


def test_formulas_may_draw_too():
    """What they take from the default generator is not taken for a draw of the network, nor drawn again."""

    class Noisy(FlowMatching):
        def residual(self, point):
            drawn.append(torch.rand(()))
            yield from EnhancedTargets.ask(point)
            drawn.append(torch.rand(()))
            return (yield from super().residual(point))

    class EnhancedTargets:
        @staticmethod
        def ask(point):
            from rcgm.engine.queries import STUDENT, Query

            yield [Query(point.x_t, point.t, point.r, STUDENT)]

    drawn = []
    x, z, _, times = batch()
    network = Dropping().eval()
    torch.manual_seed(0)
    for _ in range(2):
        Noisy()(network, x, noise=z, times=times)
    torch.manual_seed(0)
    assert drawn == [torch.rand(()) for _ in range(4)]


# Where the networks cannot be made to draw the same


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


# Training


def train(steps, states=None):
    """Steps of RCGM by a TrainStep, with the state of everything after each; begun anew from that of an earlier one."""
    student = Dropping()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    ema = Ema(student, 0.9)
    if states is not None:
        state, average, decay, generator = states
        student.load_state_dict(state)
        ema.load(average, decay)
        torch.set_rng_state(generator)
    step = TrainStep(student, RCGM(dt=0.1), optimizer, ema, seed=0, accumulate=2)
    x, *_ = batch()
    result = []
    for number in steps:
        step(number, x, None)
        result.append(copy.deepcopy((student.state_dict(), ema.network.state_dict(), ema.current_decay)))
        result[-1] += (torch.get_rng_state(),)
    return result


def test_a_run_that_goes_on_draws_what_it_would_have():
    torch.manual_seed(2)
    whole = train(range(4))
    again = train(range(2, 4), whole[1])
    for one, other in zip(whole[2:], again, strict=True):
        for mine, theirs in zip(one[:2], other[:2], strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert torch.equal(one[3], other[3])
