"""Steps that are not finite: left out without a trace, counted, and too many in a row end the run."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from rcgm.config import build_dataset_from, build_model_from, fit_to_data
from rcgm.runs import RunFolder, latest_checkpoint, read_checkpoint
from rcgm.training import NonFiniteError, Trainer, train
from rcgm.training.nonfinite_guard import NonFiniteGuard

CPU = torch.device("cpu")
OPTIMIZERS = {
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, foreach=True),
    "radam": lambda parameters: torch.optim.RAdam(parameters, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_left_out_leaves_no_trace(name, bad):
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    plain = copy.deepcopy(network)
    optimizer, reference = (OPTIMIZERS[name](module.parameters()) for module in (network, plain))
    guard = NonFiniteGuard(5, CPU)
    for number, factor in enumerate((1.0, bad, bad, 0.5)):
        x = torch.full((2, 4), float(number + 1))
        (network(x).square().sum() * factor).backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
        guard.step([optimizer], torch.tensor(1.0), norm)
        optimizer.zero_grad()
        if math.isfinite(factor):
            (plain(x).square().sum() * factor).backward()
            reference.step()
            reference.zero_grad()
    assert guard.read() == 2
    assert not hasattr(optimizer, "found_inf")
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, reference.state[other][key]), key


def test_only_those_in_a_row_count_towards_the_limit():
    network = nn.Linear(1, 1)
    optimizer = OPTIMIZERS["adamw"](network.parameters())
    guard = NonFiniteGuard(3, CPU)
    for value in (math.nan, math.nan, 1.0, math.nan, math.nan):
        guard.step([optimizer], torch.tensor(value))
    assert guard.read() == 4
    guard.step([optimizer], torch.tensor(1.0), torch.tensor(math.inf))
    with pytest.raises(NonFiniteError, match="3 steps in a row were not finite, and skip_limit is 3"):
        guard.read()


class Turning:
    """Regression whose loss is not a number in some calls."""

    def __init__(self, regression, at) -> None:
        self.regression, self.at, self.calls = regression, at, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        output = self.regression(*arguments, **options)
        return type(output)(output.loss * math.nan) if self.calls in self.at else output


@pytest.fixture
def run(tmp_path, tiny_config, regression):
    def call(at, *overrides, name="run", checkpoint=None):
        config = tiny_config("skip_nonfinite=true", *overrides)
        dataset = build_dataset_from(config)
        config = fit_to_data(config, dataset.info)
        torch.manual_seed(0)
        folder = RunFolder(tmp_path / name)
        trainer = Trainer(
            config,
            build_model_from(config),
            Turning(regression, at),
            dataset,
            folder,
            checkpoint=None if checkpoint is None else read_checkpoint(checkpoint),
            show_progress=False,
        )
        trainer.run()
        return trainer, [json.loads(line) for line in folder.metrics.read_text().splitlines()]

    return call


def test_a_run_goes_on_and_says_how_many_it_left_out(tmp_path, run):
    trainer, rows = run({2, 4, 5, 6})
    assert [row["skipped_steps"] for row in rows] == [1, 4, 4, 4]
    assert rows[1]["loss"] is None and rows[1]["grad_norm"] is None
    assert all(math.isfinite(row["loss"]) for row in (rows[0], *rows[2:]))
    for network in (trainer.student, trainer.ema.network):
        assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert (tmp_path / "run/loss.png").is_file()
    newest = read_checkpoint(latest_checkpoint(tmp_path / "run/checkpoints"))
    assert newest.state["skipped_steps"] == 4
    _, more = run({2}, "steps=15", name="run", checkpoint=latest_checkpoint(tmp_path / "run/checkpoints"))
    assert more[-1]["skipped_steps"] == 5


def test_without_a_bad_step_the_run_is_the_same(run, tmp_path, tiny_config):
    trainer, _ = run(set(), name="careful")
    other, _ = run(set(), "skip_nonfinite=false", name="plain")
    for one, two in zip(trainer.student.parameters(), other.student.parameters(), strict=True):
        assert torch.equal(one, two)


def test_too_many_in_a_row_end_the_run_with_the_checkpoint_kept(tmp_path, run):
    with pytest.raises(NonFiniteError, match=r"3 steps in a row .* skip_limit is 3; .*step_00000005'"):
        run(set(range(7, 13)), "skip_limit=3")
    content = read_checkpoint(latest_checkpoint(tmp_path / "run/checkpoints"))
    assert all(tensor.isfinite().all() for tensor in content.tensors["student"].values())


def test_bad_gradients_of_a_finite_loss_are_left_out_with_a_real_objective(tmp_path, tiny_config, monkeypatch):
    from rcgm.models.mlp import MLP

    calls = []

    def spoil(gradient):
        calls.append(None)
        return gradient * math.nan if len(calls) == 4 else gradient

    forward = MLP.forward

    def hooked(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        if output.requires_grad:
            output.register_hook(spoil)
        return output

    monkeypatch.setattr(MLP, "forward", hooked)
    summary = train(tiny_config("skip_nonfinite=true", "optimizer.name=radam"), tmp_path, show_progress=False)
    assert summary["final"]["skipped_steps"] == 1
