"""Runs that train adapters on a frozen network: ``tune: lora``."""

import re

import pytest
import torch

pytest.importorskip("peft")

from rcgm.config import ConfigError
from rcgm.models.published import read_weights
from rcgm.roles import Role, base_of
from rcgm.runs import CheckpointError, latest_checkpoint, load_run, read_checkpoint
from rcgm.runs.export import export_run
from rcgm.training import Trainer, train
from rcgm.training.step import TrainStep
from tests.support.same_run import assert_same_run
from tests.support.stopping import train_and_stop

CPU = torch.device("cpu")
LORA = ("tune=lora", "lora={rank: 2, alpha: 4}")
TEACHER = ("objective={name: rcgm, order: 1, supervision: teacher}", "teacher.base=true")


@pytest.fixture
def begun(tmp_path, tiny_config):
    """``init_from`` with the weights of a run by flow matching."""
    train(tiny_config("objective={name: flow_matching}"), tmp_path / "flow", show_progress=False)
    path = export_run(load_run(tmp_path / "flow", device=CPU), tmp_path / "flow.safetensors")
    return f"init_from={{path: '{path}', layout: rcgm}}"


def last(folder):
    return read_checkpoint(latest_checkpoint(folder / "checkpoints"))


def size(tensors: dict) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(tmp_path, tiny_config, begun):
    train(tiny_config(begun, *LORA), tmp_path / "run", show_progress=False)
    tensors = last(tmp_path / "run").tensors
    network = load_run(tmp_path / "run", device=CPU).network
    assert isinstance(network, Role)
    trained = size(network.state_dict())
    assert trained < size(read_weights(tmp_path / "flow.safetensors"))
    assert tensors["student"].keys() == tensors["ema"].keys() == network.state_dict().keys()
    assert size(tensors["student"]) == size(tensors["ema"]) == trained
    # Two moments of each parameter, and the number of steps for each tensor.
    assert size(tensors["optimizer"]) == 2 * trained + len(tensors["student"])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("ema.decay=0", "optimizer.name=radam"),
        ("ema.target_decay=0.5", "ema.warmup=false", "objective.network=target"),
        ("accumulate=2", "optimizer.clip_grad_norm=0.1", "ema.cast=bfloat16", "precision=bfloat16"),
        TEACHER,
    ],
)
def test_resume_is_exact(tmp_path, tiny_config, begun, overrides, monkeypatch):
    config = tiny_config(begun, *LORA, *overrides)
    train(config, tmp_path / "straight", show_progress=False)
    # between two checkpoints, and between two reports
    train_and_stop(config, tmp_path / "stopped", monkeypatch, at=7)
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    groups = last(tmp_path / "straight").tensors
    assert all(tensor.any() for name, tensor in groups["student"].items() if name.endswith("lora_B.weight"))


def test_a_run_is_loaded_with_its_base(tmp_path, tiny_config, begun):
    train(tiny_config(begun, *LORA), tmp_path / "run", show_progress=False)
    run = load_run(tmp_path / "run", device=CPU)
    saved = last(tmp_path / "run").tensors["ema"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in run.network.state_dict().items())
    flow = load_run(tmp_path / "flow", device=CPU)
    point = (torch.randn(4, 2), torch.full((4,), 0.7), torch.full((4,), 0.2), None)
    with torch.no_grad():
        assert torch.equal(run.network.without_adapter()(*point), flow.network(*point))
        assert not torch.equal(run.network(*point), flow.network(*point))
    samples = run.sampler(seed=1).draw(5, steps=2)
    assert samples.isfinite().all() and not torch.equal(samples, flow.sampler(seed=1).draw(5, steps=2))


def test_adapters_are_not_used_on_another_base(tmp_path, tiny_config, begun):
    train(tiny_config(begun, *LORA), tmp_path / "run", show_progress=False)
    other = tiny_config("objective={name: flow_matching}", "seed=1")
    train(other, tmp_path / "other", show_progress=False)
    export_run(load_run(tmp_path / "other", device=CPU), tmp_path / "flow.safetensors")
    for use in (
        lambda: load_run(tmp_path / "run", device=CPU),
        lambda: train(tiny_config(begun, *LORA), tmp_path / "run", resume=True, show_progress=False),
    ):
        with pytest.raises(CheckpointError, match="were trained on other weights than those that"):
            use()


@pytest.mark.parametrize("tune", [(), LORA])
def test_the_network_before_the_training_is_a_teacher(tmp_path, tiny_config, begun, tune, monkeypatch):
    """Also where the run goes on from a checkpoint."""
    seen = []
    original = TrainStep.__init__

    def look(self, student, *arguments, teacher=None, **options):
        seen.append((student, teacher))
        original(self, student, *arguments, teacher=teacher, **options)

    monkeypatch.setattr(TrainStep, "__init__", look)
    for steps in (6, 12):
        config = tiny_config(begun, *tune, *TEACHER, f"steps={steps}")
        train(config, tmp_path / "run", resume=steps == 12, show_progress=False)
        student, teacher = seen[-1]
        flow = load_run(tmp_path / "flow", device=CPU).network
        x, t, r = torch.randn(4, 2), torch.full((4,), 0.7), torch.full((4,), 0.2)
        with torch.no_grad():
            assert torch.equal(teacher(x, t, r), flow(x, t, t))
        assert (base_of(teacher.network) is base_of(student)) == bool(tune)
        assert not teacher.network.training
        assert last(tmp_path / "run").state["teacher_step"] == 0


def test_the_export_is_the_adapter(tmp_path, tiny_config, begun):
    train(tiny_config(begun, *LORA), tmp_path / "run", show_progress=False)
    run = load_run(tmp_path / "run", device=CPU)
    tensors = read_weights(export_run(run, tmp_path / "adapter.safetensors"))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in run.network.state_dict().items())
    with pytest.raises(ValueError, match=r"adapters .* one file"):
        export_run(run, tmp_path / "folder")


def test_all_forms_of_a_block_are_compiled(tmp_path, tiny_config, begun, monkeypatch):
    before = torch._dynamo.config.recompile_limit
    seen = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.append(torch._dynamo.config.recompile_limit))
    for compile in ("true", "false"):
        train(tiny_config(begun, *LORA, f"compile={compile}"), tmp_path / compile, show_progress=False)
    assert seen == [64, before]
    assert torch._dynamo.config.recompile_limit == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (LORA, r"tune: lora needs a network .* set init_from to those of 'mlp', or model to one of sana"),
        (TEACHER, r"teacher\.base needs a network that has weights: set init_from"),
        (("lora.rank=3",), "lora must be left out with tune full"),
        (("tune=lora", "lora.rank=0"), r"lora\.rank"),
        (("tune=lora", "lora.dropout=0.1"), r"unknown key 'lora\.dropout'"),
        (("tune=some",), "tune"),
        ((*LORA, "teacher={run: a, initialise_student: true}"), r"initialise_student must be false with tune lora"),
        (("teacher={weights: ema}",), r"teacher\.run: missing: give the folder of a run, or set base to true"),
        (("teacher={run: a, base: true}",), r"teacher\.run: must be left out with base, got 'a'"),
        (("teacher={base: true, checkpoint: 3}",), r"checkpoint, weights and .* must be left out with base"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(*overrides)


def test_layers_that_are_not_there_are_refused(tmp_path, tiny_config, begun):
    config = tiny_config(begun, *LORA, "lora.targets=[attn.to_q]")
    with pytest.raises(ConfigError, match=r"lora\.targets must be .* of MLP, got attn\.to_q: there are"):
        train(config, tmp_path / "run", show_progress=False)


def test_a_run_with_another_way_of_tuning_is_another_run(tmp_path, tiny_config, begun):
    train(tiny_config(begun, *LORA), tmp_path / "run", show_progress=False)
    with pytest.raises(ConfigError, match=re.escape("tune was 'lora' and is 'full'")):
        train(tiny_config(begun), tmp_path / "run", resume=True, show_progress=False)
    with pytest.raises(ConfigError, match=re.escape("lora.rank was 2 and is 3")):
        train(tiny_config(begun, *LORA, "lora.rank=3"), tmp_path / "run", resume=True, show_progress=False)
