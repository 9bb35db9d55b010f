"""Which forwards are recorded, replayed and left alone, with a recorder that runs again in the place of CUDA graphs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from rcgm.engine.cuda_graphs import GraphedNetwork
from rcgm.models import MLP
from rcgm.objectives import RCGM
from rcgm.objectives.times import TimeSampler

BATCH = 5


class Replays:
    """Records by running, replays by running again into the tensor of the first time, as a graph does."""

    def __init__(self, *, supported: bool = True, failing: bool = False) -> None:
        self.supported, self.failing = supported, failing
        self.recorded = self.replayed = 0

    def supports(self, device: torch.device) -> bool:
        return self.supported

    def record(self, forward, device):
        if self.failing:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        output = forward()

        def replay():
            self.replayed += 1
            output.copy_(forward())
            return output

        return replay


def network() -> MLP:
    made = MLP(dim=2, width=8, depth=2, frequency_size=4, num_classes=3)
    nn.init.normal_(made.output.weight)
    return made.requires_grad_(False)


def arguments(batch: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.randn(batch, 2, generator=generator).to(dtype), torch.rand(batch, generator=generator)
    return x, t, t / 2, torch.arange(batch) % 3


def agrees_silently(captured: GraphedNetwork, plain: MLP) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            torch.testing.assert_close(captured(*arguments(seed=seed)), plain(*arguments(seed=seed)))


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.no_grad():
        yield


def test_a_form_is_recorded_once_and_replayed():
    plain, replays = network(), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    answers = [captured(*arguments(seed=seed)) for seed in range(3)]
    assert (replays.recorded, replays.replayed) == (1, 3)
    for seed, answer in enumerate(answers):  # an earlier answer is not overwritten by a later replay
        torch.testing.assert_close(answer, plain(*arguments(seed=seed)))


def test_the_weights_of_the_moment_count():
    plain, replays = network(), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    before = captured(*arguments())
    for parameter in plain.parameters():
        parameter.mul_(0.5)
    torch.testing.assert_close(captured(*arguments()), plain(*arguments()))
    assert not torch.equal(captured(*arguments()), before)
    assert replays.recorded == 1


def test_every_form_is_its_own_up_to_a_bound():
    plain, replays = network(), Replays()
    captured = GraphedNetwork(plain, most=4, recorder=replays)
    x, t, r, cond = arguments()
    forms = [arguments(), arguments(3), (x, t.double(), r, cond), (x, t, r, cond.int())]
    for form in [*forms, *forms]:
        torch.testing.assert_close(captured(*form), plain(*form))
    assert (replays.recorded, replays.replayed) == (4, 8)
    with pytest.warns(RuntimeWarning, match="more than 4 forms"):
        torch.testing.assert_close(captured(*arguments(7)), plain(*arguments(7)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        captured(*arguments(8))
        captured(*arguments())
    assert (replays.recorded, replays.replayed) == (4, 9)
    captured.forget()
    captured(*arguments(7))
    assert replays.recorded == 5


def test_without_a_condition():
    plain, replays = MLP(dim=2, width=8, depth=1, frequency_size=4), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    for seed in range(2):
        point = arguments(seed=seed)[:3]
        torch.testing.assert_close(captured(*point), plain(*point))
    assert (replays.recorded, replays.replayed) == (1, 2)


def test_structures_of_conditions_are_told_apart():
    replays = Replays()

    def sums(x, t, r, cond):
        rows = cond["a"] + 2 * cond["b"][0] if isinstance(cond, dict) else cond[0] - cond[1]
        return x + rows[:, None]

    captured = GraphedNetwork(sums, recorder=replays)
    x, t, r, _ = arguments()
    for seed in range(2):
        a, b = torch.randn(2, BATCH, generator=torch.Generator().manual_seed(seed))
        for cond in ({"a": a, "b": [b]}, (a, b)):
            torch.testing.assert_close(captured(x, t, r, cond), sums(x, t, r, cond))
    assert (replays.recorded, replays.replayed) == (2, 4)


def test_autocast_is_part_of_the_form_and_weights_are_cast_anew():
    plain, replays = network().requires_grad_(), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    with torch.autocast("cpu", torch.bfloat16):
        half = captured(*arguments())
        for parameter in plain.parameters():
            parameter.mul_(0.5)
        again = captured(*arguments())
        torch.clear_autocast_cache()
        torch.testing.assert_close(again, plain(*arguments()))
    assert not torch.equal(half, again)
    captured(*arguments())
    assert replays.recorded == 2


def test_inference_mode_and_no_grad_share_a_recording():
    plain, replays = network(), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    captured(*arguments())
    with torch.inference_mode():
        captured(*arguments(seed=1))
    torch.testing.assert_close(captured(*arguments(seed=2)), plain(*arguments(seed=2)))
    assert replays.recorded == 1


def test_what_cannot_be_replayed_runs_as_it_is():
    plain, replays = network(), Replays()
    captured = GraphedNetwork(plain, recorder=replays)
    with torch.enable_grad():
        plain.requires_grad_()
        captured(*arguments()).sum().backward()
        assert plain.output.weight.grad.any()
        plain.requires_grad_(False)
    x, t, r, cond = arguments()
    ones = torch.ones_like(t)
    directions = (torch.ones_like(x), ones, ones)
    expected = torch.func.jvp(lambda *point: plain(*point, cond), (x, t, r), directions)
    torch.testing.assert_close(torch.func.jvp(lambda *point: captured(*point, cond), (x, t, r), directions), expected)
    assert replays.recorded == 0


def test_a_device_without_graphs_gets_one_warning():
    plain = network()
    captured = GraphedNetwork(plain)  # CUDA graphs, on a CPU
    with pytest.warns(RuntimeWarning, match="forwards on cpu are not captured"):
        captured(*arguments())
    agrees_silently(captured, plain)


def test_a_recording_that_fails_is_reported_and_not_tried_again():
    plain = network()
    captured = GraphedNetwork(plain, recorder=Replays(failing=True))
    with pytest.warns(RuntimeWarning, match="could not be captured .* stream is capturing"):
        captured(*arguments())
    agrees_silently(captured, plain)


def test_the_bound_is_checked():
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        GraphedNetwork(network(), most=0)


@pytest.mark.parametrize("target_dtype", [None, "float16"])
def test_an_objective_trains_as_without(target_dtype):
    objective = RCGM(order=2, times=TimeSampler(equal=0.25), target_dtype=target_dtype)
    x, _, _, cond = arguments(8)
    student, plain, replays = network(), network(), Replays()
    gradients = []
    for target in (plain, GraphedNetwork(plain, recorder=replays)):
        with torch.enable_grad():
            student.requires_grad_().zero_grad()
            for seed in range(2):
                generator = torch.Generator().manual_seed(seed)
                objective(student, x, cond, target=target, generator=generator).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in student.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    assert replays.replayed > replays.recorded > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_graphs():
    plain = network().cuda()
    captured = GraphedNetwork(plain)
    for seed in range(3):
        for batch in (5, 8):
            point = [argument.cuda() for argument in arguments(batch, seed)]
            for autocast in (False, True):
                with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                    first = captured(*point)
                    captured(*[argument.cuda() for argument in arguments(batch, seed + 10)])
                    torch.testing.assert_close(first, plain(*point))
        for parameter in plain.parameters():
            parameter.mul_(1.1)
    assert len(captured._recorded) == 4
    assert all(captured._recorded.values())


class Waits(nn.Module):
    """Asks for a value on the host, which no graph can hold."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, r: torch.Tensor, cond: object = None) -> torch.Tensor:
        return x * float(t.sum())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_capture_that_fails_leaves_torch_as_it_was():
    x, t, r, _ = (None if argument is None else argument.cuda() for argument in arguments())
    stream = torch.cuda.current_stream()
    waits, plain = GraphedNetwork(Waits()), network().cuda()
    torch.cuda.manual_seed(0)
    expected = torch.randn(8, device="cuda")
    torch.cuda.manual_seed(0)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="could not be captured"):
        torch.testing.assert_close(waits(x, t, r), x * t.sum())
    assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.randn(8, device="cuda"), expected)
    torch.testing.assert_close(GraphedNetwork(plain)(x, t, r), plain(x, t, r))
