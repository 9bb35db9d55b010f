"""The state of a training run: what its checkpoints hold of the objects that train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rcgm.distributed.shares import Processes
from rcgm.runs.checkpoint import Checkpoint
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.health import all_finite
from rcgm.training.optimizers import empty_optimizer_state, export_optimizer, import_optimizer
from rcgm.training.randomness import global_random_state, restore_global_random_state
from rcgm.training.step_metrics import StepMetrics

__all__ = ["TrainingState"]

OLD_GROUPS = {"objective": "memory"}
"""Groups of tensors that had another name in earlier checkpoints."""


class TrainingState:
    """Gathers the state of a run for a checkpoint, and gives it back.

    Args:
        student: the network that is trained.
        ema: its averages.
        objective_state: persistent and learned state of the objective.
        optimizer: of the parameters of ``student`` and ``objective_state``.
        metrics: those that have not been reported yet.
        seed: of the run.
        processes: of the run.
        adversary: its heads and their optimizer are part of the state; None for none.
    """

    def __init__(
        self,
        student: nn.Module,
        ema: Ema,
        objective_state: nn.Module,
        optimizer: torch.optim.Optimizer,
        metrics: StepMetrics,
        *,
        seed: int,
        processes: Processes,
        adversary: Adversary | None = None,
    ) -> None:
        self._student = student
        self._device = next(student.parameters()).device
        self._ema = ema
        self._objective = objective_state
        self._optimizer = optimizer
        self._metrics = metrics
        self._seed = seed
        self._processes = processes
        self._adversary = adversary

    def is_finite(self) -> bool:
        """Whether all parameters are finite, in every process. Waits for the device."""
        finite = all_finite([*self._student.parameters(), *self._objective.parameters(), *self._heads()])
        return self._processes.all_agree(finite, self._device)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Named tensors by group. Each process has to make the call."""
        tensors = {
            "student": self._student.state_dict(),
            **{group: average for group, _, average in self._averages()},
            "objective": self._objective.state_dict(),
            "optimizer": export_optimizer(self._optimizer, self._student, self._objective),
            "random": global_random_state(self._device, self._processes),
        }
        if self._adversary is not None:
            tensors["discriminator"] = self._adversary.heads.state_dict()
            tensors["discriminator_optimizer"] = export_optimizer(self._adversary.optimizer, self._adversary.heads)
        return tensors

    def values(self) -> dict[str, Any]:
        """Plain values. Each process has to make the call, which waits for the device.

        Raises:
            NonFiniteError: the run has diverged.
        """
        return {
            **{f"{group}_decay": ema.current_decay for group, ema, _ in self._averages()},
            **self._metrics.state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, of this version or an earlier one.

        Raises:
            CheckpointError: a tensor or a value is missing, or belongs to nothing here.
        """
        checkpoint.read_into("student", self._student.state_dict())
        for group, ema, average in self._averages():
            checkpoint.read_into(group, average)
            ema.load(average, checkpoint.value(f"{group}_decay", float))
        self._objective.load_state_dict(checkpoint.read(_group(checkpoint, "objective")))
        self._restore_optimizer(checkpoint, "optimizer", self._optimizer, self._student, self._objective)
        if self._adversary is not None:
            heads = self._adversary.heads
            checkpoint.read_into("discriminator", heads.state_dict())
            self._restore_optimizer(checkpoint, "discriminator_optimizer", self._adversary.optimizer, heads)
        restore_global_random_state(
            checkpoint.read("random"), self._device, self._processes, seed=self._seed, step=checkpoint.step
        )
        self._metrics.restore(checkpoint.state)

    def _restore_optimizer(
        self,
        checkpoint: Checkpoint,
        group: str,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        objective: nn.Module | None = None,
    ) -> None:
        state = empty_optimizer_state(checkpoint.layout.get(group, {}), network, objective)
        checkpoint.read_into(group, state)
        import_optimizer(optimizer, network, state, objective)

    def _heads(self) -> list[nn.Parameter]:
        return [] if self._adversary is None else list(self._adversary.heads.parameters())

    def _averages(self) -> list[tuple[str, Ema, dict[str, Tensor]]]:
        """The averages with their names in a checkpoint and their tensors, none where an average is the student."""
        named = {"ema": self._ema, "target_ema": self._ema.second}
        return [
            (name, ema, {} if ema.is_student else ema.network.state_dict())
            for name, ema in named.items()
            if ema is not None
        ]


def _group(checkpoint: Checkpoint, name: str) -> str:
    old = OLD_GROUPS.get(name)
    return old if old is not None and name not in checkpoint.layout and old in checkpoint.layout else name
