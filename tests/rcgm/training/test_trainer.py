import json
import math

import pytest
import torch
from PIL import Image

from rcgm.config import ConfigError, build_dataset_from, build_model_from, fit_to_data
from rcgm.distributed import choose_device
from rcgm.distributed.shares import Processes
from rcgm.runs import RunFolder, latest_checkpoint, load_run, read_checkpoint
from rcgm.runs.measures import build_measure
from rcgm.training import NonFiniteError, Trainer, train


class Turning:
    """Regression whose loss turns infinite at a call."""

    def __init__(self, regression, at: int) -> None:
        self.regression, self.at, self.calls = regression, at, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        output = self.regression(*arguments, **options)
        return type(output)(output.loss * math.inf) if self.calls == self.at else output


class FiniteValueInfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.fixture
def build_trainer(tmp_path, tiny_config):
    def build(objective, *overrides) -> Trainer:
        config = tiny_config(*overrides)
        dataset = build_dataset_from(config)
        config = fit_to_data(config, dataset.info)
        torch.manual_seed(0)
        return Trainer(
            config, build_model_from(config), objective, dataset, RunFolder(tmp_path / "run"), show_progress=False
        )

    return build


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(tmp_path, build_trainer, regression):
    trainer = build_trainer(Turning(regression, 8))
    with pytest.raises(NonFiniteError, match=r"the loss of step 8 is (inf|nan); .*'.*step_00000005'"):
        trainer.run()
    newest = latest_checkpoint(tmp_path / "run/checkpoints")
    assert newest.name == "step_00000005"
    content = read_checkpoint(newest)
    assert all(torch.isfinite(tensor).all() for tensor in content.tensors["student"].values())


def test_before_the_first_checkpoint_the_message_says_so(build_trainer, regression):
    with pytest.raises(NonFiniteError, match=r"the loss of step 2 .* there is no checkpoint yet"):
        build_trainer(Turning(regression, 2)).run()


def test_a_bad_gradient_under_a_good_loss_is_not_saved(tmp_path, build_trainer, regression):
    class Objective:
        calls = 0

        def __call__(self, *arguments, **options):
            self.calls += 1
            output = regression(*arguments, **options)
            if self.calls < 10:
                return output
            return type(output)(FiniteValueInfiniteGradient.apply(output.loss))

    with pytest.raises(NonFiniteError, match=r"parameters after step 10 are not finite; .*step_00000005"):
        build_trainer(Objective()).run()
    assert latest_checkpoint(tmp_path / "run/checkpoints").name == "step_00000005"


def test_reported_loss_is_the_mean_since_the_last_report(tmp_path, build_trainer):
    class Counting:
        calls = 0

        def __call__(self, student, x, cond=None, **options):
            self.calls += 1
            times = torch.ones(len(x))
            return type("Output", (), {"loss": 0.0 * student(x, times, times, cond).sum() + float(self.calls)})

    build_trainer(Counting(), "steps=8").run()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(3, 2.0), (6, 5.0), (8, 7.5)]
    assert [row["lr"] for row in rows] == [0.01, 0.01, 0.01]


def test_a_run_leaves_its_records(tmp_path, tiny_config):
    overrides = ("sample.every=6", "sample.count=20", "evaluate.at_end=true", "evaluate.every=6", "evaluate.count=50")
    summary = train(tiny_config(*overrides, "logging.tensorboard=true"), tmp_path, show_progress=False)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["final"]["step"] == 12
    assert summary["parameters"] > 0
    assert summary["wall_time_seconds"] > 0
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["config"]["model"]["dim"] == 2
    assert set(summary["evaluation"]) == {"1", "2", "4"}
    assert summary["evaluation"]["1"]["squared_mmd"] > 0
    assert set(json.loads((tmp_path / "evaluations.json").read_text())) == {"6", "12"}
    pictures = ("loss.png", "samples/step_00000006.png", "samples/step_00000012.png")
    for picture in (*pictures, "training.gif", "training.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.width > 200
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.rglob("*.tmp"))


def test_looking_at_a_run_does_not_change_it(tmp_path, tiny_config):
    train(tiny_config(), tmp_path / "blind", show_progress=False)
    looks = ("sample.every=5", "sample.count=2", "sample.steps=[1]", "evaluate.at_end=true", "logging.every=1")
    train(tiny_config(*looks, "checkpoint.every=1"), tmp_path / "watched", show_progress=False)
    one, two = (
        read_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")).tensors for name in ("blind", "watched")
    )
    for group in ("student", "ema", "optimizer"):
        for name, tensor in one[group].items():
            assert torch.equal(tensor, two[group][name])


def test_loaded_network_is_the_average_or_the_student(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    tensors = read_checkpoint(latest_checkpoint(tmp_path / "checkpoints")).tensors
    device = torch.device("cpu")
    average, student = (load_run(tmp_path, device=device, weights=name) for name in ("ema", "student"))
    earlier = load_run(tmp_path, device=device, step=10)
    assert (average.step, earlier.step) == (12, 10)
    assert average.info.shape == (2,)
    assert not average.network.training
    for name, tensor in average.network.state_dict().items():
        assert torch.equal(tensor, tensors["ema"][name])
    for name, tensor in student.network.state_dict().items():
        assert torch.equal(tensor, tensors["student"][name])
    assert not torch.equal(tensors["ema"]["output.weight"], tensors["student"]["output.weight"])


def test_loading_says_what_is_missing(tmp_path, tiny_config):
    device = torch.device("cpu")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_run(tmp_path / "nowhere", device=device)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        load_run(tmp_path, device=device)
    train(tiny_config(), tmp_path, show_progress=False)
    with pytest.raises(ValueError, match=r"no checkpoint of step 3 .* there are \[10, 12\]"):
        load_run(tmp_path, device=device, step=3)


def test_guidance_without_classes_is_refused_before_any_work(tmp_path, tiny_config):
    with pytest.raises(ConfigError, match="classes"):
        train(tiny_config("objective.guidance.scale=1.0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_refused_before_any_file(tmp_path, tiny_config):
    with pytest.raises(ValueError, match="batch_size"):
        train(tiny_config("batch_size=512"), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_no_measure_for_data_of_other_kinds():
    class Other:
        info = type("Info", (), {"kind": "images", "value_range": None})

    assert build_measure(Other()) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_an_error_only_where_it_is_asked_for():
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="finds no CUDA device"):
        choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_on_a_gpu_do_not_wait_for_it(tmp_path, tiny_config):
    config = tiny_config("device=cuda", "precision=bfloat16", "optimizer.clip_grad_norm=1.0")
    dataset = build_dataset_from(config)
    config = fit_to_data(config, dataset.info)
    from rcgm.config import build_objective_from
    from rcgm.training.ema import Ema
    from rcgm.training.optimizers import build_optimizer
    from rcgm.training.step import TrainStep

    student = build_model_from(config).cuda()
    optimizer = build_optimizer(config.optimizer, student)
    step = TrainStep(
        student, build_objective_from(config), optimizer, Ema(student, 0.9), seed=0, autocast=torch.bfloat16
    )
    x = dataset.samples[:16].cuda()
    step(0, x, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1, x, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graphs_fall_back_on_a_cpu_and_change_no_number(tmp_path, tiny_config):
    plain = train(tiny_config(), tmp_path / "plain", show_progress=False)
    with pytest.warns(RuntimeWarning, match="forwards on cpu are not captured"):
        graphed = train(tiny_config("cuda_graphs=true"), tmp_path / "graphed", show_progress=False)
    assert graphed["final"]["loss"] == plain["final"]["loss"]


def test_cuda_graphs_are_for_one_process(tmp_path, tiny_config):
    config = tiny_config("cuda_graphs=true")
    dataset = build_dataset_from(config)
    config = fit_to_data(config, dataset.info)
    with pytest.raises(ValueError, match="cuda_graphs must be false where several processes train, got 2"):
        Trainer(config, build_model_from(config), None, dataset, RunFolder(tmp_path / "run"), processes=Processes(0, 2))
