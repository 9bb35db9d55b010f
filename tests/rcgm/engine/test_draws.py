"""Networks that draw random numbers in their forwards: every evaluation of a sample draws the same."""

import copy

import pytest
import torch

from rcgm.config import ParallelConfig
from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.distributed import parallelize
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
    MeanFlow,
    MixedTarget,
    Shortcut,
    TeacherEnhancedTarget,
    TiM,
    TwinFlow,
)
from rcgm.objectives.times import Times, TimeSampler
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep
from rcgm_kernels import Metric
from tests.support.dropping import BATCH, EQUAL, WIDTH, Dropping, batch, masks, mean_flow, recursive
from tests.support.rounding import assert_rounded

STEP = 1 / 128
SOME_EQUAL = TimeSampler(equal=0.4)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def assert_same(one, other):
    for value, expected in zip(one, other, strict=True):
        assert_rounded(value, expected, divided_by=0.005)  # the shortest step of the objectives and loops


OBJECTIVES = {
    "mean flow": lambda: MeanFlow(times=SOME_EQUAL),
    "mean flow, order 4": lambda: MeanFlow(times=SOME_EQUAL, derivative=Central(order=4)),
    "mean flow, one-sided": lambda: MeanFlow(times=SOME_EQUAL, derivative=OneSided()),
    "mean flow, jvp": lambda: MeanFlow(times=SOME_EQUAL, derivative=ForwardMode()),
    "improved mean flow": lambda: ImprovedMeanFlow(times=SOME_EQUAL, label_dropout=0.3),
    "mean flow, auto": lambda: MeanFlow(times=SOME_EQUAL, derivative=Auto(every=1)),
    "mean flow, guided by the student": lambda: MeanFlow(
        times=SOME_EQUAL, guidance=MixedTarget(0.7, network="student"), label_dropout=0.3
    ),
    "rcgm, rollout": lambda: RCGM(order=3, times=SOME_EQUAL),
    "rcgm, jump": lambda: RCGM(order=4, points="jump", times=SOME_EQUAL, guidance=EnhancedTarget(0.5)),
    "rcgm, interpolant": lambda: RCGM(order=3, points="interpolant", base="target", times=SOME_EQUAL),
    "rcgm, base again": lambda: RCGM(base="again", times=SOME_EQUAL),
    "alpha flow": lambda: AlphaFlow(alpha=0.1, order=2, times=SOME_EQUAL),
    "consistency": lambda: Consistency(network="target"),
    "ucgm": lambda: UCGM(),
    "ucgm, ratio 1/2": lambda: UCGM(consistency_ratio=0.5, network="target", times=SOME_EQUAL),
    "ucgm, distilled": lambda: UCGM(guidance=TeacherEnhancedTarget(0.5)),
    "scm": lambda: SCM(warmup_steps=0),
    "scm, jvp": lambda: SCM(warmup_steps=0, derivative=ForwardMode(), network="target"),
    "shortcut": lambda: Shortcut(times=TimeSampler(interval="dyadic", equal=0.4)),
    "tim": lambda: TiM(),
    "twinflow": lambda: TwinFlow(guidance=EnhancedTarget(0.5), label_dropout=0.3),
    "decm": lambda: DECM(metric=Metric()),
    "facm": lambda: FACM(guidance=MixedTarget(0.0, data=1.75, network="student")),
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
