from itertools import pairwise

import pytest
import torch

from rcgm.sampling import sample_any_step

BATCH, NULL = 5, 7


class Spy:
    """Remembers its calls; the answer depends on every argument."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, r, cond=None):
        self.calls.append((x.clone(), t.clone(), r.clone(), cond))
        assert not torch.is_grad_enabled()
        row = 0 if cond is None else cond.to(x).reshape(-1, 1)
        return 0.5 * x + t[:, None] - 2 * r[:, None] + row


def noise(dtype=torch.float64):
    return torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


LABELS = torch.arange(BATCH)


def by_hand(x, schedule, cond=None, null=None, guidance=1.0):
    for t, r in pairwise(schedule):
        velocity = 0.5 * x + t - 2 * r + (0 if cond is None else cond[:, None])
        if guidance != 1:
            unconditional = 0.5 * x + t - 2 * r + null
            velocity = unconditional + guidance * (velocity - unconditional)
        x = x - (t - r) * velocity
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_even_steps(steps):
    spy = Spy()
    samples = sample_any_step(spy, noise(), steps=steps)
    schedule = [1 - k / steps for k in range(steps + 1)]
    torch.testing.assert_close(samples, by_hand(noise(), schedule), rtol=1e-13, atol=1e-13)
    assert len(spy.calls) == steps
    assert spy.calls[0][1].tolist() == [1.0] * BATCH
    assert spy.calls[-1][2].tolist() == [0.0] * BATCH
    # Each step begins where the one before it ended.
    for (*_, end, _), (_, start, *_) in pairwise(spy.calls):
        assert torch.equal(end, start)


def test_one_step_is_the_default():
    assert torch.equal(sample_any_step(Spy(), noise()), sample_any_step(Spy(), noise(), steps=1))


@pytest.mark.parametrize("schedule", [[1.0, 0.0], (0.9, 0.4, 0.1), torch.tensor([1.0, 0.5, 0.25]).double()])
def test_given_times(schedule):
    spy = Spy()
    samples = sample_any_step(spy, noise(), times=schedule)
    values = [float(time) for time in schedule]
    torch.testing.assert_close(samples, by_hand(noise(), values), rtol=1e-13, atol=1e-13)
    assert [call[1][0].item() for call in spy.calls] == values[:-1]
    assert [call[2][0].item() for call in spy.calls] == values[1:]


@pytest.mark.parametrize("null", [torch.tensor([NULL]), torch.full((BATCH,), NULL)], ids=["one row", "all rows"])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0, -1.0])
def test_guidance(guidance, null):
    spy = Spy()
    samples = sample_any_step(spy, noise(), LABELS, steps=3, guidance=guidance, null_cond=null)
    expected = by_hand(noise(), [1, 2 / 3, 1 / 3, 0], LABELS, NULL, guidance)
    torch.testing.assert_close(samples, expected, rtol=1e-12, atol=1e-12)
    # Both halves are one forward.
    assert [len(x) for x, *_ in spy.calls] == [2 * BATCH] * 3
    assert torch.equal(spy.calls[0][3], torch.cat([torch.full((BATCH,), NULL), LABELS]))
    assert torch.equal(spy.calls[1][0][:BATCH], spy.calls[1][0][BATCH:])


def test_guidance_of_one_costs_nothing():
    spy = Spy()
    samples = sample_any_step(spy, noise(), LABELS, steps=2, guidance=1.0, null_cond=torch.tensor([NULL]))
    torch.testing.assert_close(samples, by_hand(noise(), [1, 0.5, 0], LABELS), rtol=1e-13, atol=1e-13)
    assert [len(x) for x, *_ in spy.calls] == [BATCH] * 2
    assert torch.equal(spy.calls[0][3], LABELS)


def test_guidance_of_a_nest():
    def network(x, t, r, cond):
        label, extra = cond["label"], cond["extra"][0]
        return x + label[:, None] + extra

    cond = {"label": LABELS.double(), "extra": (torch.ones(BATCH, 3).double(),)}
    null = {"label": torch.zeros(1).double(), "extra": (torch.zeros(1, 3).double(),)}
    samples = sample_any_step(network, noise(), cond, guidance=2.0, null_cond=null)
    # x - (x + 2 (label + 1))
    torch.testing.assert_close(samples, (-2.0 * (LABELS + 1)).double()[:, None].expand(BATCH, 3))


def test_progress():
    told = []
    sample_any_step(Spy(), noise(), steps=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told.clear()
    sample_any_step(Spy(), noise(), times=[1, 0.3, 0], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype_and_the_noise(dtype):
    start = noise(dtype)
    before = start.clone()
    samples = sample_any_step(Spy(), start, steps=3)
    assert samples.dtype == dtype
    assert torch.equal(start, before)
    assert samples.data_ptr() != start.data_ptr()


def test_state_stays_float32_for_a_bfloat16_network():
    def network(x, t, r, cond):
        return (0.5 * x).bfloat16()

    start = noise(torch.float32)
    samples = sample_any_step(network, start, steps=2)
    assert samples.dtype == torch.float32
    torch.testing.assert_close(samples, start * 0.75**2, rtol=0, atol=0.02)
    # A bfloat16 state would have lost its low bits.
    assert not torch.equal(samples, samples.bfloat16().float())


def test_images():
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    samples = sample_any_step(lambda x, t, r, cond: x, start, steps=2)
    torch.testing.assert_close(samples, start * 0.25)


def test_no_gradient_is_kept():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    samples = sample_any_step(lambda x, t, r, cond: x * weight, noise().requires_grad_(), steps=2)
    assert not samples.requires_grad


def untouched(*_):
    raise AssertionError("the network was called before the arguments were checked")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": [0.0]}, TypeError, "noise must be a float32 or float64 tensor, got list"),
        (
            {"noise": torch.zeros(2, 2).half()},
            TypeError,
            "noise must be a float32 or float64 tensor, got torch.float16",
        ),
        ({"noise": torch.tensor(0.0)}, ValueError, r"noise must have the shape \[B, ...\], got a scalar tensor"),
        ({"steps": 0}, ValueError, "steps must be a whole number >= 1, got 0"),
        ({"steps": 2.0}, ValueError, "steps must be a whole number >= 1, got 2.0"),
        ({"steps": True}, ValueError, "steps must be a whole number >= 1, got True"),
        (
            {"times": [1.0]},
            ValueError,
            r"times must fall from at most 1 to at least 0, at least two of them, got \[1.0\]",
        ),
        ({"times": []}, ValueError, "times must fall"),
        ({"times": [0.0, 1.0]}, ValueError, "times must fall"),
        ({"times": [1.0, 0.5, 0.5]}, ValueError, "times must fall"),
        ({"times": [1.1, 0.0]}, ValueError, "times must fall"),
        ({"times": [1.0, -0.1]}, ValueError, "times must fall"),
        ({"times": [1.0, float("nan"), 0.0]}, ValueError, "times must fall"),
        ({"cond": LABELS[:2]}, ValueError, r"cond must have a leading dimension of 5, got the shape \[2\]"),
        ({"guidance": 2.0}, ValueError, "guidance other than 1 needs cond and null_cond, got None"),
        ({"guidance": 2.0, "cond": LABELS}, ValueError, "guidance other than 1 needs cond and null_cond, got None"),
        (
            {"guidance": 2.0, "cond": LABELS, "null_cond": LABELS[:3]},
            ValueError,
            "null_cond must have a leading dimension of 5 or 1",
        ),
        (
            {"guidance": 2.0, "cond": LABELS, "null_cond": {"a": LABELS}},
            ValueError,
            "null_cond must have the structure of cond",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_any_step(untouched, **{"noise": noise(), **arguments})


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_network_of_another_shape(guidance):
    with pytest.raises(ValueError, match=r"network must return the shape of its input, \[\d+, 3\], got \[\d+, 2\]"):
        sample_any_step(
            lambda x, t, r, cond: x[:, :2], noise(), LABELS, guidance=guidance, null_cond=torch.tensor([NULL])
        )
