import copy
import dataclasses

import pytest
import torch
from torch import nn

from rcgm.derivatives import Auto
from rcgm.engine.combination import PREDICTION
from rcgm.objectives import RCGM, FlowMatching
from rcgm.objectives.guidance import EnhancedTarget
from rcgm.objectives.mean_flow import MeanFlow
from rcgm.objectives.overflow import without
from rcgm.objectives.residual import Residual
from rcgm.objectives.scm import SCM
from rcgm.objectives.times import Times
from rcgm.training.ema import AutocastNetwork

BATCH, SIZE = 6, 5
FORMATS = ["float32", "float16", "bfloat16"]


class Network(nn.Module):
    """Two layers, with the formats that it has computed in."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(SIZE, 8), nn.Linear(8, SIZE)
        self.seen = []

    def forward(self, x, t, r, cond):
        hidden = self.first(x + t[:, None] - r[:, None])
        output = self.last(torch.tanh(hidden))
        self.seen.append((torch.is_grad_enabled(), output.dtype))
        return output


class Overflowing(Network):
    """In float16, its answers for the samples of the ``bad`` classes are infinite."""

    def __init__(self, bad=()):
        super().__init__()
        self.bad = torch.tensor(bad, dtype=torch.long)

    def forward(self, x, t, r, cond):
        output = super().forward(x, t, r, cond)
        if output.dtype == torch.float16:
            output = torch.where(torch.isin(cond, self.bad)[:, None], output * 1e6, output)
        return output


def draw():
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, BATCH, SIZE, generator=generator)
    t = torch.tensor([0.5, 0.9, 0.6, 0.7, 0.8, 0.95])
    r = 0.4 * t
    r[0] = t[0]
    return x, z, Times(t, r, 1)


def gradients(network, objective, autocast=None, cond=None, **options):
    x, z, times = draw()
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        out = objective(network, x, cond, noise=z, times=times, **options)
    out.loss.backward()
    return out, [parameter.grad.clone() for parameter in network.parameters()]


# Formats inside formats


@pytest.mark.parametrize(
    "make",
    [RCGM, MeanFlow, lambda **options: MeanFlow(derivative=Auto(), **options)],
    ids=["rcgm", "mean_flow", "mean_flow_auto"],
)
@pytest.mark.parametrize("outer", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inner", FORMATS)
def test_targets_in_one_format_inside_another(make, outer, inner):
    network = Network()
    _, found = gradients(network, make(target_dtype=inner), outer)
    student = torch.float32 if outer is None else outer
    assert {dtype for grad, dtype in network.seen if not grad} == {getattr(torch, inner)}
    assert [dtype for grad, dtype in network.seen if grad] == [student]
    # Autocast must not hand the student weights that the targets have cast, which have no gradient.
    assert all(gradient.abs().sum() > 0 for gradient in found)
    # The second call finds what the first one left in the cache, if any.
    assert all(
        torch.equal(a, b) for a, b in zip(found, gradients(network, make(target_dtype=inner), outer)[1], strict=True)
    )


def test_the_format_of_the_targets_is_all_that_changes():
    _, exact = gradients(Network(), RCGM(order=2))
    for inner, tolerance in (("float32", 0.0), ("float16", 0.2), ("bfloat16", 1.0)):
        _, found = gradients(Network(), RCGM(order=2, target_dtype=inner))
        difference = sum((a - b).square().sum() for a, b in zip(found, exact, strict=True)).sqrt()
        size = sum(a.square().sum() for a in exact).sqrt()
        assert difference <= tolerance * size


def test_a_forward_of_its_own_for_the_base():
    """In the step's format the base is the student's prediction; evaluated, it is of the format of the targets."""
    network = Network()
    out, found = gradients(network, RCGM(order=2, base="again", target_dtype="float32"), torch.bfloat16)
    assert [dtype for grad, dtype in network.seen if not grad] == [torch.float32] * 2
    assert (out.waves, out.evaluations) == (2, 3)
    _, exact = gradients(Network(), RCGM(order=2, base="target", target_dtype="float32"))
    _, rounded = gradients(Network(), RCGM(order=2, target_dtype="float32"), torch.bfloat16)
    size = sum(a.square().sum() for a in exact).sqrt()

    def distance(one):
        return (sum((a - b).square().sum() for a, b in zip(one, exact, strict=True)).sqrt() / size).item()

    assert distance(found) < 0.5 * distance(rounded)


def test_the_base_is_the_student_not_the_average():
    student, average = Network(0), Network(1)
    x, z, times = draw()
    RCGM(order=1, base="again")(student, x, target=average, noise=z, times=times)
    assert [grad for grad, _ in student.seen] == [False, True]
    assert [grad for grad, _ in average.seen] == [False]


# Overflow


LABELS = torch.arange(BATCH)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: RCGM(order=2, **options),
        lambda **options: RCGM(order=3, points="jump", base="target", **options),
        lambda **options: RCGM(order=2, base="again", guidance=EnhancedTarget(1.5), **options),
        lambda **options: MeanFlow(**options),
        lambda **options: MeanFlow(guidance=EnhancedTarget(0.5), **options),
    ],
)
def test_a_sample_that_overflows_is_left_out_of_the_step(make):
    """As if its residual were 0: the loss and gradient are those of the others, over the whole batch."""
    options = {"cond": LABELS, "null_cond": torch.tensor([BATCH])}
    bad = torch.tensor([2, 4])
    objective = make(target_dtype="float16", adaptive=None)
    out, found = gradients(Overflowing(bad.tolist()), objective, **options)
    assert objective.report()["target_overflows"] == 2
    assert objective.state()["overflow"].samples == 2

    class Masked(type(objective)):
        def losses(self, prediction, residual, point):
            return super().losses(prediction, without(residual, ~torch.isin(LABELS, bad)), point)

    values = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective) if field.init}
    expected, plain = gradients(Overflowing(), Masked(**values), **options)
    assert expected.loss > 0
    torch.testing.assert_close(out.loss, expected.loss)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [MeanFlow, SCM, lambda **options: SCM(weighting="learned", **options)])
def test_nor_does_it_give_a_gradient_with_other_weights(make):
    out, found = gradients(Overflowing([1, 2, 3, 4, 5]), make(target_dtype="float16"), cond=LABELS)
    assert out.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found)


def test_the_count_grows_and_is_resumed():
    objective = RCGM(order=2, target_dtype="float16")
    for _ in range(3):
        gradients(Overflowing([1, 3]), objective, cond=LABELS)
    saved = objective.state().state_dict()
    resumed = RCGM(order=2, target_dtype="float16")
    resumed.state().load_state_dict(saved)
    assert resumed.report()["target_overflows"] == 6


def test_samples_without_target_forwards_cannot_overflow():
    objective = RCGM(order=2, target_dtype="float16")
    out, _ = gradients(Overflowing([0]), objective, cond=LABELS)
    assert out.loss.isfinite()
    assert objective.report()["target_overflows"] == 0


def test_all_overflow():
    objective = RCGM(order=2, target_dtype="float16")
    out, found = gradients(Overflowing(list(range(1, BATCH))), objective, cond=LABELS)
    assert out.loss > 0  # the first sample, of which nothing is asked
    assert all(gradient.isfinite().all() for gradient in found)


def test_a_student_that_is_not_finite_is_not_hidden():
    network = Network()
    with torch.no_grad():
        network.last.bias.fill_(torch.nan)
    out, _ = gradients(network, RCGM(order=2, target_dtype="float16"))
    assert out.loss.isnan()


@pytest.mark.parametrize("target_dtype", [None, "float32", "bfloat16"])
def test_other_formats_do_not_look(target_dtype):
    objective = FlowMatching(target_dtype=target_dtype)
    assert (objective.report(), list(objective.state())) == ({}, [])


def test_a_dropped_sample_has_no_weight_and_the_others_keep_theirs():
    kept = torch.tensor([True, False])
    weighted = without(Residual(2.0 * PREDICTION, weight=torch.tensor([2.0, 3.0])), kept)
    assert weighted.weight.tolist() == [2.0, 0.0]
    assert without(Residual(2.0 * PREDICTION), kept).weight.tolist() == [1.0, 0.0]


def test_a_target_cast_to_float16_may_overflow_as_well():
    student = Overflowing([2])
    target = AutocastNetwork(copy.deepcopy(student).requires_grad_(False), torch.float16)
    x, z, times = draw()
    objective = RCGM(clip=None)
    assert "target_overflows" not in objective.report()
    out = objective(student, x, LABELS, target=target, noise=z, times=times)
    out.loss.backward()
    assert objective.report()["target_overflows"] == 1
    assert out.losses[2] == 0 and out.loss > 0
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
