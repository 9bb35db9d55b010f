"""How many waves and evaluations objectives take, and what they ask (the table of math.md section 2)."""

import pytest
import torch

from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching, TimeSampler
from tests.support.spies import BATCH, EQUAL, LABEL, NESTS, REST, Spy, Student, draw, leaves, same


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
