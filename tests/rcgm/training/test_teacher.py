"""Distillation from the network of another run."""

import copy
import shutil

import pytest
import torch

from rcgm.config import ConfigError, build_dataset_from, build_model_from, build_objective_from, fit_to_data
from rcgm.models import MLP
from rcgm.runs import latest_checkpoint, load_run, read_checkpoint
from rcgm.seeds import Purpose, seeded_generator
from rcgm.training import Teacher, initialise_from, train
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer
from rcgm.training.step import TrainStep

FLOW = "objective={name: flow_matching}"
DISTILLED = ("objective={name: rcgm, order: 1, supervision: teacher}",)
DEVICE = torch.device("cpu")


@pytest.fixture
def flow(tmp_path, tiny_config):
    """The folder of a run by flow matching, with checkpoints of steps 10 and 12."""
    train(tiny_config(FLOW), tmp_path / "flow", show_progress=False)
    return tmp_path / "flow"


def last(folder) -> dict:
    return read_checkpoint(latest_checkpoint(folder / "checkpoints"))


def test_the_objective_is_given_the_frozen_network(flow, tmp_path, tiny_config, monkeypatch):
    seen = []
    original = TrainStep.__init__

    def look(self, *arguments, teacher=None, **options):
        seen.append(teacher)
        original(self, *arguments, teacher=teacher, **options)

    monkeypatch.setattr(TrainStep, "__init__", look)
    train(tiny_config(*DISTILLED, f"teacher.run={flow}"), tmp_path / "run", show_progress=False)
    (teacher,) = seen
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    expected = last(flow).tensors["ema"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in teacher.network.state_dict().items())
    assert last(tmp_path / "run").state["teacher_step"] == 12


@pytest.mark.parametrize("weights", ["ema", "student"])
def test_weights_and_checkpoint_are_a_choice(flow, tmp_path, tiny_config, weights):
    options = (f"teacher.run={flow}", f"teacher.weights={weights}", "teacher.initialise_student=true", "ema.decay=0")
    train(
        tiny_config(*DISTILLED, *options, "teacher.checkpoint=10", "steps=1", "optimizer.lr=1e-30"),
        tmp_path / "run",
        show_progress=False,
    )
    copied = last(tmp_path / "run")
    assert copied.state["teacher_step"] == 10
    expected = load_run(flow, device=DEVICE, step=10, weights=weights).network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in copied.tensors["student"].items())


def test_the_teacher_reaches_the_loss(flow, tiny_config):
    """One step of flow matching on the teacher's velocity, beside the same in plain tensors."""
    config = tiny_config("objective={name: flow_matching, supervision: teacher}", f"teacher.run={flow}")
    dataset = build_dataset_from(config)
    student = build_model_from(fit_to_data(config, dataset.info))
    teacher = Teacher(load_run(flow, device=DEVICE).network, 12, any_step=False)
    step = TrainStep(
        student,
        build_objective_from(config),
        build_optimizer(config.optimizer, student),
        Ema(student, 0.9),
        seed=0,
        teacher=teacher,
    )
    x = dataset.samples[:16]
    reference = copy.deepcopy(student)
    result = step(0, x, None)
    generator = seeded_generator(0, Purpose.TRAINING, 0)
    times = build_objective_from(config).times.sample(16, generator=generator, device=DEVICE)
    z = torch.randn(x.shape, generator=generator)
    x_t = times.t[:, None] * z + (1 - times.t[:, None]) * x
    with torch.no_grad():
        apart = reference(x_t, times.t, times.t) - teacher.network(x_t, times.t, times.t)
    torch.testing.assert_close(result.loss, apart.square().mean(), rtol=1e-5, atol=0)


def test_an_instantaneous_teacher_is_only_asked_at_r_equal_t():
    asked = []

    class Network(torch.nn.Module):
        def forward(self, x, t, r, cond=None):
            asked.append((t.tolist(), r.tolist(), cond))
            return x

    x, t, r = torch.zeros(2, 3), torch.tensor([0.5, 1.0]), torch.tensor([0.25, 0.0])
    Teacher(Network(), 1, any_step=False)(x, t, r, "condition")
    Teacher(Network(), 1, any_step=True)(x, t, r)
    assert asked == [([0.5, 1.0], [0.5, 1.0], "condition"), ([0.5, 1.0], [0.25, 0.0], None)]


def test_weights_are_copied_where_they_agree():
    sizes = {"dim": 2, "frequency_size": 4}
    teacher = Teacher(MLP(width=8, depth=1, **sizes), 1, any_step=False)
    student = MLP(width=8, depth=2, **sizes)
    before = copy.deepcopy(student.state_dict())
    kept = initialise_from(teacher, student)
    source = teacher.network.state_dict()
    assert kept == ["modulation.weight", "modulation.bias", "hidden.1.weight", "hidden.1.bias"]
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name] if name in kept else source[name])
    with pytest.raises(ConfigError, match=r"teacher\.initialise_student: no tensor of the student"):
        initialise_from(teacher, torch.nn.Linear(3, 3))


def test_the_average_begins_at_the_weights_of_the_teacher(flow, tmp_path, tiny_config):
    options = (f"teacher.run={flow}", "teacher.initialise_student=true", "ema.decay=0.999", "ema.warmup=false")
    train(tiny_config(*DISTILLED, *options, "steps=1", "optimizer.lr=1e-30"), tmp_path / "run", show_progress=False)
    average, expected = last(tmp_path / "run").tensors["ema"], last(flow).tensors["ema"]
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


def test_a_resumed_run_keeps_the_checkpoint_that_it_began_with(flow, tmp_path, tiny_config):
    options = (*DISTILLED, f"teacher.run={flow}")
    train(tiny_config(*options, "teacher.checkpoint=12"), tmp_path / "straight", show_progress=False)
    train(tiny_config(*options, "steps=5"), tmp_path / "stopped", show_progress=False)
    train(tiny_config(FLOW, "steps=14"), flow, resume=True, show_progress=False)  # the teacher trains on
    train(tiny_config(*options), tmp_path / "stopped", resume=True, show_progress=False)
    one, two = last(tmp_path / "straight"), last(tmp_path / "stopped")
    assert two.state["teacher_step"] == 12
    for name, tensor in one.tensors["student"].items():
        assert torch.equal(tensor, two.tensors["student"][name])


def test_resume_refuses_another_teacher(flow, tmp_path, tiny_config):
    train(tiny_config(*DISTILLED, f"teacher.run={flow}"), tmp_path / "run", show_progress=False)
    shutil.copytree(flow, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"teacher\.run was .*flow.* and is .*other"):
        train(tiny_config(*DISTILLED, f"teacher.run={tmp_path / 'other'}"), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"teacher was .* and is None"):
        train(tiny_config(DISTILLED[0].replace("teacher", "data")), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*DISTILLED, "teacher.run=RUN/nowhere"), r"teacher\.run: no run folder .*nowhere'; train the teacher first"),
        (
            (*DISTILLED, "teacher.run=RUN", "teacher.checkpoint=3"),
            r"no checkpoint of step 3 .* there are \[10, 12\]; set teacher\.run and teacher\.checkpoint",
        ),
        (
            (*DISTILLED, "teacher.run=RUN", "data.labels=true"),
            r"'.*flow' takes no classes and the student 2 classes: both must take the same \(data\.labels",
        ),
        (
            (*DISTILLED, "teacher.run=RUN", "objective.transport=trigflow"),
            r"with the transport Linear\(\), and the student is to learn TrigFlow.*: set objective\.transport",
        ),
        (
            (*DISTILLED, "teacher.run=RUN", "data={name: digits}", "model={name: mlp, width: 8, depth: 1, dim: 2}"),
            r"samples of shape \[2\], the data here have \[1, 8, 8\]: choose a teacher of the same data",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_file(flow, tmp_path, tiny_config, overrides, message):
    config = tiny_config(*(word.replace("RUN", str(flow)) for word in overrides))
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "objective",
    [DISTILLED[0], "objective={name: ucgm, guidance: {name: ucgm_teacher, scale: 2}}",
     "objective={name: rcgm, guidance: {scale: 1, network: teacher}}"],
)  # fmt: skip
def test_a_missing_teacher_is_noticed_when_the_configuration_is_read(objective, tiny_config):
    with pytest.raises(ConfigError, match=r"by a teacher, and there is none: set teacher\.run"):
        tiny_config(objective)


def test_unknown_keys_of_the_section_are_named(tiny_config):
    with pytest.raises(ConfigError, match=r"did you mean 'teacher\.weights'"):
        tiny_config("teacher.run=somewhere", "teacher.weight=ema")
    with pytest.raises(ConfigError, match=r"teacher\.run: missing"):
        tiny_config("teacher.kind=any_step")
