import math

import pytest
import torch

from rcgm.distributed.shares import Processes
from rcgm.objectives import OBJECTIVES
from rcgm.training import train
from rcgm.training.loss_by_time import LossByTime

CPU = torch.device("cpu")


def test_means_of_each_range_and_a_new_beginning():
    by_time = LossByTime(4, CPU, Processes())
    by_time.add(torch.tensor([0.0, 0.1, 0.3, 1.0]), torch.tensor([1.0, 2.0, 5.0, 7.0]))
    by_time.add(torch.tensor([0.2, 0.3, 0.99]), torch.tensor([3.0, math.nan, 8.0]))
    expected = {"loss_t/0-0.25": 2.0, "loss_t/0.25-0.5": 5.0, "loss_t/0.75-1": 7.5}
    state = by_time.state()
    assert by_time.report() == expected
    assert by_time.report() == {}
    by_time.restore(state)
    assert by_time.report() == expected
    other = LossByTime(3, CPU, Processes())
    other.restore(state)
    assert other.report() == {}


def test_what_two_processes_saved_goes_on_in_one_and_three():
    state = [[[1.0, 0.0], [1.0, 0.0]], [[2.0, 3.0], [1.0, 1.0]]]
    one = LossByTime(2, CPU, Processes())
    one.restore(state)
    assert one.report() == {"loss_t/0-0.5": 1.5, "loss_t/0.5-1": 3.0}
    kept = []
    for rank in range(3):
        part = LossByTime(2, CPU, Processes(rank, 3))
        part.restore(state)
        kept.append(part._sums)
    assert torch.equal(sum(kept), torch.tensor(state, dtype=torch.float64).sum(0))


class Scaled(torch.nn.Module):
    """A network whose prediction is far off for some samples, by their class."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t, r, cond=None):
        return self.weight * (x + cond.view(-1, 1, 1, 1) * t.view(-1, 1, 1, 1))


@pytest.mark.parametrize("name", ["rcgm", "shortcut", "mean_flow", "scm", "ucgm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_objectives_tell_the_losses_of_samples(name, dtype):
    objective = OBJECTIVES[name](**({"weighting": "learned"} if name == "scm" else {}))
    network = Scaled()

    def student(x, t, r, cond):
        return network(x, t, r, cond).to(dtype)

    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    cond = torch.tensor([0, 1, 2, 0, 1, 2])
    output = objective(student, x, cond, generator=torch.Generator().manual_seed(1))
    assert output.losses.shape == output.t.shape
    torch.testing.assert_close(output.losses.detach().sum() / len(x), output.loss.detach())
    output.loss.backward()
    assert network.weight.grad.isfinite()
    # one sample alone has the loss that is told of it
    if name == "rcgm" and dtype == torch.float32:
        from rcgm.objectives.times import Times

        noise = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
        whole = objective(student, x, cond, noise=noise, times=Times(output.t, output.r))
        alone = objective(student, x[4:5], cond[4:5], noise=noise[4:5], times=Times(output.t[4:5], output.r[4:5]))
        torch.testing.assert_close(whole.losses[4].detach(), alone.loss.detach())


def test_rows_that_went_through_networks_are_counted():
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    cond = torch.zeros(8, dtype=torch.int64)
    mean_flow = OBJECTIVES["mean_flow"]()  # r = t in 6 of 8
    output = mean_flow(Scaled(), x, cond, generator=torch.Generator().manual_seed(1))
    assert output.rows == 2 * 2  # a central difference
    order_two = OBJECTIVES["rcgm"](order=2)(Scaled(), x, cond, generator=torch.Generator().manual_seed(1))
    assert order_two.rows == 2 * 8


def test_the_rows_of_a_run_have_them_by_default(tmp_path, tiny_config):
    summary = train(tiny_config(), tmp_path / "run", show_progress=False)
    final = summary["final"]
    parts = [value for name, value in final.items() if name.startswith("loss_t/")]
    assert len(parts) == 5
    assert min(parts) <= final["loss"] <= max(parts)
    summary = train(tiny_config("logging.time_ranges=0"), tmp_path / "without", show_progress=False)
    assert not [name for name in summary["final"] if name.startswith("loss_t/")]
    assert summary["final"]["loss"] == final["loss"]
