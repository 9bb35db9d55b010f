"""Runs with a discriminator."""

import json
import math

import pytest
import torch

from rcgm.config import ConfigError
from rcgm.runs import latest_checkpoint, load_run, read_checkpoint
from rcgm.runs.export import export_run
from rcgm.training import train
from tests.support.same_run import assert_same_run
from tests.support.stopping import train_and_stop

DIT = (
    "data={name: digits}",
    "model={name: dit, depth: 3, hidden_size: 16, patch_size: 4, num_heads: 2, frequency_size: 8}",
)
JUDGED = "discriminator={weight: 0.5, features: 2, hidden: 8, optimizer: {lr: 1e-2}}"


@pytest.fixture(scope="module")
def flow(tmp_path_factory, request):
    """The folder of a run by flow matching."""
    return tmp_path_factory.mktemp("flow") / "run"


@pytest.fixture
def judged(flow, tiny_config):
    """Configurations of runs with that teacher and a discriminator."""
    if not flow.exists():
        train(tiny_config(*DIT, "objective={name: flow_matching}"), flow, show_progress=False)
    return lambda *overrides: tiny_config(
        *DIT, f"teacher={{run: {flow}, initialise_student: true}}", JUDGED, *overrides
    )


def last(folder):
    return read_checkpoint(latest_checkpoint(folder / "checkpoints"))


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_heads_are_trained_saved_and_reported(tmp_path, judged):
    train(judged(), tmp_path / "run", show_progress=False)
    train(judged("steps=6"), tmp_path / "short", show_progress=False)
    heads, earlier = (last(tmp_path / name).tensors["discriminator"] for name in ("run", "short"))
    assert set(heads) == set(earlier) and "heads.1.5.weight" in heads
    # the gradient of the last bias is 0 while no logit is beyond 1
    assert all(not torch.equal(heads[name], earlier[name]) for name in heads if heads[name].ndim > 1)
    assert "heads.0.1.weight/exp_avg" in last(tmp_path / "run").tensors["discriminator_optimizer"]
    for row in rows(tmp_path / "run"):
        values = [row[f"discriminator/{name}"] for name in ("loss", "generator_loss", "told_apart")]
        assert all(map(math.isfinite, values)) and 0 <= values[2] <= 1


def test_the_term_reaches_the_student_by_its_weight(tmp_path, judged):
    students = {}
    for weight in (0.0, 0.5):
        train(judged(f"discriminator.weight={weight}"), tmp_path / str(weight), show_progress=False)
        students[weight] = last(tmp_path / str(weight)).tensors["student"]
    plain = judged().model_copy(update={"discriminator": None})
    train(plain, tmp_path / "plain", show_progress=False)
    expected = last(tmp_path / "plain").tensors["student"]
    assert all(torch.equal(expected[name], students[0.0][name]) for name in expected)
    assert any(not torch.equal(expected[name], students[0.5][name]) for name in expected)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("accumulate=2", "precision=bfloat16", "discriminator.penalty=0.1", "discriminator.optimizer.name=radam"),
        ("skip_nonfinite=true", "discriminator.loss=relativistic", "discriminator.optimizer.schedule=linear"),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, judged, monkeypatch, overrides):
    config = judged(*overrides)
    train(config, tmp_path / "straight", show_progress=False)
    train_and_stop(config, tmp_path / "stopped", monkeypatch, at=7)
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_micro_batches_give_the_numbers_of_one(tmp_path, judged):
    for number in (1, 4):
        train(judged(f"accumulate={number}", "steps=2"), tmp_path / str(number), show_progress=False)
    one, four = (last(tmp_path / name).tensors for name in ("1", "4"))
    for group in ("student", "discriminator"):
        for name, tensor in one[group].items():
            # Adam moves a parameter by its learning rate, 1e-2, whatever the size of a gradient near rounding
            torch.testing.assert_close(four[group][name], tensor, rtol=1e-3, atol=2e-3)
    first, other = (rows(tmp_path / name)[-1] for name in ("1", "4"))
    for name in ("loss", "discriminator/loss", "discriminator/generator_loss"):
        assert other[name] == pytest.approx(first[name], rel=1e-3)


def test_heads_stay_as_they_are_in_a_step_that_is_skipped(tmp_path, judged, monkeypatch):
    from rcgm.training.adversary import Adversary

    original, seen = Adversary.finish, []

    def finish(self, step, share):
        norm = original(self, step, share)
        seen.append([parameter.detach().clone() for parameter in self.heads.parameters() if parameter.ndim > 1])
        return norm * math.nan if step == 3 else norm

    monkeypatch.setattr(Adversary, "finish", finish)
    train(judged("skip_nonfinite=true"), tmp_path / "run", show_progress=False)
    assert all(torch.equal(one, other) for one, other in zip(seen[3], seen[4], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(seen[4], seen[5], strict=True))
    assert rows(tmp_path / "run")[-1]["skipped_steps"] == 1


def test_what_is_sampled_and_exported_has_no_discriminator(tmp_path, judged):
    train(judged(), tmp_path / "run", show_progress=False)
    run = load_run(tmp_path / "run", device=torch.device("cpu"))
    assert not any("head" in name and "final" not in name for name in run.network.state_dict())
    assert export_run(run, tmp_path / "run.safetensors").exists()


def test_configurations_that_cannot_work_are_refused(tmp_path, judged, tiny_config, flow):
    with pytest.raises(ConfigError, match=r"discriminator needs a teacher"):
        tiny_config(*DIT, JUDGED)
    with pytest.raises(ConfigError, match=r"discriminator must be left out with the objective flow_matching"):
        judged("objective={name: flow_matching}")
    with pytest.raises(ConfigError, match=r"discriminator: loss must be one of hinge, relativistic, got 'wgan'"):
        judged("discriminator.loss=wgan")
    train(tiny_config("objective={name: flow_matching}"), tmp_path / "moons", show_progress=False)
    config = tiny_config(f"teacher.run={tmp_path / 'moons'}", JUDGED)
    with pytest.raises(ConfigError, match=r"discriminator: .* network must have blocks"):
        train(config, tmp_path / "run", show_progress=False)
