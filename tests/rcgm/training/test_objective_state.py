"""What an objective learns and remembers belongs to the run, and what it reports to the records."""

import copy
import json

import pytest
import torch
from torch import nn

from rcgm.config import OptimizerConfig, build_dataset_from, build_model_from, fit_to_data
from rcgm.models import MLP
from rcgm.runs import RunFolder, latest_checkpoint, read_checkpoint, save_checkpoint
from rcgm.training import NonFiniteError, Trainer, train
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer, export_optimizer, import_optimizer
from rcgm.training.step import TrainStep


class Remembering:
    """Learns a matrix of its own beside the regression, and counts its calls."""

    def __init__(self, regression) -> None:
        self.regression = regression
        self.reports = 0
        self.module = nn.Module()
        self.module.scale = nn.Parameter(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
        self.module.register_buffer("calls", torch.zeros(()))

    def __call__(self, student, x, cond=None, *, generator, **options):
        self.module.calls += 1
        output = self.regression(student, x, cond)
        drawn = torch.randn(2, generator=generator)
        learned = (self.module.scale @ drawn - 1).square().mean()
        return type(output)(output.loss + learned)

    def state(self):
        return nn.ModuleDict({"scale": self.module})

    def report(self):
        self.reports += 1
        return {"calls": self.module.calls, "scale": self.module.scale.square().sum()}


@pytest.fixture
def build(tmp_path, tiny_config):
    def build(objective, *overrides, name="run", checkpoint=None) -> Trainer:
        config = tiny_config(*overrides)
        dataset = build_dataset_from(config)
        config = fit_to_data(config, dataset.info)
        torch.manual_seed(0)
        student = build_model_from(config)
        folder = RunFolder(tmp_path / name)
        return Trainer(config, student, objective, dataset, folder, checkpoint=checkpoint, show_progress=False)

    return build


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last(folder):
    return read_checkpoint(latest_checkpoint(folder / "checkpoints"))


@pytest.mark.parametrize("name", ["adamw", "radam"])
def test_state_is_trained_saved_and_resumed_bit_for_bit(tmp_path, build, regression, name):
    option = f"optimizer.name={name}"
    first = Remembering(regression)
    before = first.module.scale.detach().clone()
    build(first, option, name="straight").run()
    assert not torch.equal(first.module.scale, before)
    build(Remembering(regression), option, "steps=7", name="stopped").run()
    build(Remembering(regression), option, name="stopped", checkpoint=last(tmp_path / "stopped")).run()
    one, two = last(tmp_path / "straight"), last(tmp_path / "stopped")
    assert set(one.tensors["objective"]) == {"scale.scale", "scale.calls"}
    assert one.tensors["objective"]["scale.calls"] == 12
    assert "objective/scale.scale/exp_avg" in one.tensors["optimizer"]
    for group in ("student", "objective", "optimizer"):
        assert one.tensors[group].keys() == two.tensors[group].keys()
        assert all(torch.equal(tensor, two.tensors[group][key]) for key, tensor in one.tensors[group].items())


@pytest.mark.parametrize(
    "objective",
    ["{name: scm, weighting: learned, warmup_steps: 4}", "{name: mean_flow, derivative: {name: auto, every: 4}}"],
)
def test_objectives_with_a_state_resume_exactly(tmp_path, tiny_config, objective):
    def config(steps):
        return tiny_config(f"objective={objective}", f"steps={steps}", "logging.every=1")

    train(config(12), tmp_path / "straight", show_progress=False)
    train(config(7), tmp_path / "stopped", show_progress=False)
    train(config(12), tmp_path / "stopped", resume=True, show_progress=False)
    one, two = last(tmp_path / "straight"), last(tmp_path / "stopped")
    assert one.tensors["objective"]
    for group in one.tensors:
        assert all(torch.equal(tensor, two.tensors[group][key]) for key, tensor in one.tensors[group].items())
    timing = ("seconds", "images_per_second")
    plain = [
        [{key: value for key, value in row.items() if key not in timing} for row in rows(tmp_path / name)]
        for name in ("straight", "stopped")
    ]
    assert plain[0] == plain[1]


def test_checkpoints_with_the_old_name_of_the_group_are_read(tmp_path, build, regression):
    build(Remembering(regression), name="straight").run()
    build(Remembering(regression), "steps=7", name="stopped").run()
    stopped = last(tmp_path / "stopped")
    groups = {"memory" if name == "objective" else name: tensors for name, tensors in stopped.tensors.items()}
    old = read_checkpoint(save_checkpoint(tmp_path / "old", 7, groups, stopped.state, keep=1))
    assert "memory" in old.layout and "objective" not in old.layout
    build(Remembering(regression), name="stopped", checkpoint=old).run()
    one, two = last(tmp_path / "straight"), last(tmp_path / "stopped")
    for group in one.tensors:
        assert all(torch.equal(tensor, two.tensors[group][key]) for key, tensor in one.tensors[group].items())


def test_reports_are_recorded_with_the_loss_and_asked_for_only_then(tmp_path, build, regression):
    objective = Remembering(regression)
    trainer = build(objective, "steps=8")
    summary = trainer.run()
    assert [(row["step"], row["objective/calls"]) for row in rows(tmp_path / "run")] == [(3, 3), (6, 6), (8, 8)]
    assert objective.reports == 3
    assert summary["final"]["objective/scale"] == pytest.approx(objective.module.scale.square().sum().item())


def test_reports_reach_tensorboard(tmp_path, build, regression):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    build(Remembering(regression), "steps=6", "logging.tensorboard=true").run()
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/objective/calls")] == [3, 6]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, build, regression):
    objective = Remembering(regression)
    trainer = build(objective, "steps=5")
    # Broken in the last step: no loss shows it any more.
    objective.module.scale.register_hook(lambda gradient: gradient / (objective.module.calls < 5))
    with pytest.raises(NonFiniteError, match="the parameters after step 5 are not finite"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "run/checkpoints") is None


def test_state_has_no_weight_decay():
    student = MLP(dim=2, width=8, depth=1, frequency_size=4)
    memory = nn.ModuleDict({"head": nn.Linear(3, 3)})
    optimizer = build_optimizer(OptimizerConfig(lr=0.1, weight_decay=0.5), student, memory)
    before = [parameter.detach().clone() for parameter in memory.parameters()]
    for parameter in (*student.parameters(), *memory.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(old, now) for old, now in zip(before, memory.parameters(), strict=True))


def test_clipping_looks_at_the_student_alone(regression):
    student = MLP(dim=2, width=8, depth=1, frequency_size=4)
    objective = Remembering(regression)
    optimizer = torch.optim.SGD([*student.parameters(), *objective.state().parameters()], lr=1.0)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(student)
    norm = TrainStep(student, objective, optimizer, Ema(student, 0.0), seed=0, clip_grad_norm=1e-9)(
        0, x, None
    ).grad_norm
    loss = regression(twin, x).loss
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    torch.testing.assert_close(norm, torch.cat([gradient.flatten() for gradient in gradients]).norm())


def test_exported_names_of_the_state_do_not_meet_those_of_the_network():
    network, memory = nn.ModuleDict({"head": nn.Linear(2, 2)}), nn.ModuleDict({"head": nn.Linear(2, 2)})
    optimizer = build_optimizer(OptimizerConfig(), network, memory)
    for index, parameter in enumerate((*network.parameters(), *memory.parameters())):
        parameter.grad = torch.full_like(parameter, float(index + 1))
    optimizer.step()
    tensors = export_optimizer(optimizer, network, memory)
    again = build_optimizer(OptimizerConfig(), network, memory)
    import_optimizer(again, network, tensors, memory)
    for parameter in (*network.parameters(), *memory.parameters()):
        assert torch.equal(again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert len(tensors) == 3 * 4
