"""The state of a run on a published network, in full and with adapters, goes through a checkpoint to the bit."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from rcgm.config import OptimizerConfig
from rcgm.distributed.shares import Processes
from rcgm.networks import NETWORKS
from rcgm.objectives import RCGM
from rcgm.roles import lora_role
from rcgm.runs.checkpoint import read_checkpoint, save_checkpoint, snapshot
from rcgm.training import Ema, TrainStep
from rcgm.training.optimizers import build_optimizer
from rcgm.training.state import TrainingState
from rcgm.training.step_metrics import StepMetrics
from rcgm.training.utilisation import Utilisation
from tests.support.tiny_networks import FAMILIES

CPU = torch.device("cpu")


class Run:
    """A run of a tiny network, without what is around it."""

    def __init__(self, name: str, tune: str, seed: int) -> None:
        self.family = FAMILIES[name]
        student = NETWORKS[name](self.family.build())
        torch.manual_seed(seed)  # what is drawn for adapters, which a checkpoint has to replace
        self.student = student if tune == "full" else lora_role(student, rank=2)
        self.ema = Ema(self.student, 0.9, target_decay=0.5)
        optimizer = build_optimizer(OptimizerConfig(lr=1e-3), self.student)
        metrics = StepMetrics(
            CPU, Processes(), time_ranges=0, skip_limit=None, utilisation=Utilisation(None, None, CPU)
        )
        objective = RCGM(order=2, dt=0.1)
        self.state = TrainingState(
            self.student, self.ema, torch.nn.ModuleDict(), optimizer, metrics, seed=0, processes=Processes()
        )
        self.step = TrainStep(self.student, objective, optimizer, self.ema, seed=0)

    def train(self, *steps: int) -> None:
        x = torch.randn(2, *self.family.latents, generator=torch.Generator().manual_seed(5))
        for step in steps:
            self.step(step, x, self.family.cond(2))


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_goes_on_exactly(tmp_path, name, tune):
    straight, stopped, resumed = Run(name, tune, 1), Run(name, tune, 1), Run(name, tune, 2)
    straight.train(0, 1, 2)
    stopped.train(0, 1)
    path = save_checkpoint(tmp_path, 2, snapshot(stopped.state.tensors()), stopped.state.values(), keep=1)
    resumed.state.restore(read_checkpoint(path))
    resumed.train(2)
    expected, got = straight.state.tensors(), resumed.state.tensors()
    for group in ("student", "ema", "target_ema", "optimizer"):
        assert expected[group].keys() == got[group].keys()
        assert all(torch.equal(tensor, got[group][key]) for key, tensor in expected[group].items()), group
    frozen = [key for key in expected["student"] if tune == "lora" and ".lora_" not in key]
    assert all(key.startswith("interval_embedder.") for key in frozen)
