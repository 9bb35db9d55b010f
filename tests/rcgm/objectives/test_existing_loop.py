"""The objectives in a training loop that somebody has already."""

import copy

import pytest
import torch
from torch import nn

from rcgm.objectives import OBJECTIVES, RCGM, FlowMatching, ObjectiveOutput
from rcgm_kernels import ema_update_
from tests.support.rounding import assert_rounded

BATCH, NULL = 16, 4


class Network(nn.Module):
    """Of linear layers, so that autocast has something to do."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(NULL + 1, 16)
        self.first = nn.Linear(5, 16)
        self.last = nn.Linear(16, 3)
        self.seen = []

    def forward(self, x, t, r, cond=None):
        hidden = self.first(torch.cat([x, t[:, None].to(x), r[:, None].to(x)], 1))
        hidden = hidden if cond is None else hidden + self.table(cond)
        out = self.last(torch.tanh(hidden))
        self.seen.append((out.dtype, t.dtype, r.dtype))
        return out


@pytest.fixture
def student():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


def batch(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 3, generator=generator, dtype=dtype)
    return x, torch.randint(0, NULL, (BATCH,), generator=generator)


def average_of(student):
    return copy.deepcopy(student).requires_grad_(False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(network):
    return [parameter.grad.clone() for parameter in network.parameters()]


def step(objective, student, *args, **kwargs):
    student.zero_grad()
    out = objective(student, *args, **kwargs)
    out.loss.backward()
    return out, gradients(student)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_loop(name, student):
    objective = OBJECTIVES[name]()
    ema, g = average_of(student), generator()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    before = [parameter.clone() for parameter in student.parameters()]
    losses = []
    for index in range(30):
        x, cond = batch(index)
        out = objective(student, 0.1 * x + 2, cond, target=ema, generator=g)
        optimizer.zero_grad()
        out.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
        optimizer.step()
        ema_update_(list(ema.parameters()), list(student.parameters()), 0.9)
        losses.append(out.loss.item())
    assert all(not torch.equal(now, then) for now, then in zip(student.parameters(), before, strict=True))
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(parameter.grad is None for parameter in ema.parameters())


def test_what_a_call_gives(student):
    x, cond = batch()
    out = RCGM(order=2)(student, x, cond, target=average_of(student), generator=generator())
    assert isinstance(out, ObjectiveOutput)
    assert out.loss.shape == ()
    assert out.loss.requires_grad
    assert out.prediction.shape == x.shape
    assert not out.prediction.requires_grad
    assert out.t.shape == out.r.shape == (BATCH,)
    assert (out.waves, out.evaluations) == (2, 2)


@pytest.mark.parametrize("objective", [RCGM(order=2), RCGM(order=3, points="jump", base="target"), FlowMatching()])
def test_the_generator_decides_everything(objective, student):
    x, cond = batch()
    ema = average_of(student)
    (one, one_grads), (same, same_grads), (other, _) = (
        step(objective, student, x, cond, target=ema, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.loss, same.loss)
    assert torch.equal(one.t, same.t)
    assert torch.equal(one.prediction, same.prediction)
    assert all(torch.equal(a, b) for a, b in zip(one_grads, same_grads, strict=True))
    assert not torch.equal(one.loss, other.loss)


def test_a_generator_goes_on_from_call_to_call(student):
    x, cond = batch()
    g = generator()
    first, second = (RCGM()(student, x, cond, generator=g) for _ in range(2))
    assert not torch.equal(first.t, second.t)
    assert not torch.equal(first.prediction, second.prediction)


def test_global_randomness_is_left_alone_with_a_generator(student):
    x, cond = batch()
    state = torch.get_rng_state()
    RCGM(label_dropout=0.5)(student, x, cond, null_cond=torch.tensor([NULL]), generator=generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_seed_decides(student):
    x, cond = batch()
    with torch.random.fork_rng():
        losses = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            losses.append(RCGM()(student, x, cond).loss)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_given_noise_and_times_leave_nothing_to_draw(student):
    x, cond = batch()
    drawn = RCGM().times.sample(BATCH, generator=generator(3), device="cpu")
    g = generator()
    state = g.get_state()
    out = RCGM()(student, x, cond, noise=torch.ones_like(x), times=drawn, generator=g)
    assert torch.equal(g.get_state(), state)
    assert torch.equal(out.t, drawn.t)


def test_no_target_is_a_copy_of_the_student(student):
    x, cond = batch()
    own, own_grads = step(RCGM(order=3), student, x, cond, generator=generator())
    copied, copied_grads = step(RCGM(order=3), student, x, cond, target=average_of(student), generator=generator())
    assert torch.equal(own.loss, copied.loss)
    assert all(torch.equal(a, b) for a, b in zip(own_grads, copied_grads, strict=True))


def test_a_target_with_no_length_is_still_a_target(student):
    class Empty(nn.ModuleList):
        calls = 0

        def forward(self, x, t, r, cond):
            self.calls += 1
            return torch.zeros_like(x)

    target = Empty()
    x, cond = batch()
    RCGM(order=2)(student, x, cond, target=target, generator=generator())
    assert target.calls == 2


@pytest.mark.parametrize("own", [True, False], ids=["student as target", "ema as target"])
def test_autocast(student, own):
    x, cond = batch()
    target = None if own else average_of(student)
    objective = RCGM(order=2, dt=0.1, clip=None)
    plain, plain_grads = step(objective, student, x, cond, target=target, generator=generator())
    student.zero_grad()
    student.seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        out = objective(student, x, cond, target=target, generator=generator())
    out.loss.backward()
    assert {dtype for dtype, *_ in student.seen} == {torch.bfloat16}
    if target is not None:
        assert {dtype for dtype, *_ in target.seen[-2:]} == {torch.bfloat16}
    assert out.loss.dtype == torch.float32
    # bfloat16 rounds to 0.4%; a difference divided by dt = 0.1 makes that 10 times as much
    torch.testing.assert_close(out.loss, plain.loss, rtol=0.1, atol=0)
    # The casts of the weights are cached in the target forwards: those must not cut the student off its parameters.
    for low, full in zip(gradients(student), plain_grads, strict=True):
        assert torch.nn.functional.cosine_similarity(low.flatten(), full.flatten(), dim=0) > 0.98


def test_float64(student):
    x, cond = batch(dtype=torch.float64)
    out = RCGM()(student.double(), x, cond, generator=generator())
    out.loss.backward()
    assert out.loss.dtype == out.prediction.dtype == torch.float64
    assert out.t.dtype == torch.float32
    assert student.first.weight.grad.dtype == torch.float64
    assert {(t, r) for _, t, r in student.seen} == {(torch.float32, torch.float32)}


def test_gradient_accumulation_and_scaling(student):
    x, cond = batch()
    _, once = step(RCGM(), student, x, cond, generator=generator())
    student.zero_grad()
    for _ in range(2):
        (RCGM()(student, x, cond, generator=generator()).loss * 3).backward()
    for accumulated, single in zip(gradients(student), once, strict=True):
        assert_rounded(accumulated, 6 * single, roundings=10)  # a few sums in another order


def test_a_plain_function_is_a_network():
    x, _ = batch()
    weight = torch.zeros(3, requires_grad=True)
    RCGM()(lambda x, t, r, cond: x * weight, x, generator=generator()).loss.backward()
    assert weight.grad.abs().min() > 0


def test_given_dropped_conditions(student):
    """As if they had been drawn: those samples have the null condition, and nothing else is drawn."""
    x, cond = batch()
    objective, null = RCGM(order=2, label_dropout=0.4), torch.tensor([NULL])
    drawn = torch.rand(BATCH, generator=generator(7)) < 0.4
    times, noise = RCGM().times.sample(BATCH, generator=generator(3), device="cpu"), torch.ones_like(x)
    given, given_grads = step(
        objective, student, x, cond, null_cond=null, noise=noise, times=times, dropped=drawn, generator=generator()
    )
    same, same_grads = step(
        objective, student, x, cond, null_cond=null, noise=noise, times=times, generator=generator(7)
    )
    assert 0 < drawn.sum() < BATCH
    assert torch.equal(given.loss, same.loss)
    assert all(torch.equal(a, b) for a, b in zip(given_grads, same_grads, strict=True))
    replaced, _ = step(RCGM(order=2), student, x, torch.where(drawn, NULL, cond), noise=noise, times=times)
    assert torch.equal(given.loss, replaced.loss)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_samples_have_a_gradient(name, student):
    """A loop that reduces them itself gets the gradient of its own reduction."""
    x, cond = batch()
    objective = OBJECTIVES[name]()
    _, expected = step(objective, student, x, cond, generator=generator())
    student.zero_grad()
    out = objective(student, x, cond, generator=generator())
    (out.losses.sum() / BATCH).backward()
    for one, other in zip(gradients(student), expected, strict=True):
        assert_rounded(one, other)
    student.zero_grad()
    out = objective(student, x, cond, generator=generator())
    chosen = torch.zeros_like(out.losses)
    chosen[::2] = 3.0
    (chosen * out.losses).sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(student))
    assert any(not torch.allclose(a, b) for a, b in zip(gradients(student), expected, strict=True))
