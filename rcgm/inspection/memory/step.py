"""The peak memory of the training step of a configuration, from a run of it on tensors without content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import TrainConfig, build_model_from, build_objective_from
from rcgm.data import DataInfo
from rcgm.distributed import parallelize
from rcgm.inspection.memory.fake import without_content
from rcgm.inspection.memory.live import OTHER, LiveMemory
from rcgm.inspection.memory.sharding import BUFFERS, GATHERED, GRADIENTS, Sharding
from rcgm.roles import base_of
from rcgm.runs.conditions import null_condition
from rcgm.runs.networks import build_network
from rcgm.training.adversary import build_adversary
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer
from rcgm.training.setup import build_ema
from rcgm.training.step import TrainStep
from rcgm.training.teacher import Teacher, teacher_before
from rcgm.training.trial import batch_like, text_condition

__all__ = ["PARTS", "peak_memories", "peak_memory"]

DISCRIMINATOR = "discriminator"
PARTS = (
    "frozen weights",
    "trained weights",
    "averages",
    "teacher",
    DISCRIMINATOR,
    GATHERED,
    GRADIENTS,
    BUFFERS,
    "optimizer",
    "batch",
    OTHER,
)
"""What memory is for, in the order of reports."""
SHARDED = ("frozen weights", "trained weights", "averages", "teacher", GRADIENTS, "optimizer")
CPU = torch.device("cpu")


def peak_memory(
    config: TrainConfig,
    info: DataInfo,
    *,
    processes: int = 1,
    rows: int | None = None,
    objective: Callable[..., Any] | None = None,
) -> dict[str, float]:
    """Bytes by part at the moment of a step of a process when it holds the most.

    A step of the run's own code is made on tensors without content, after the optimizer has its state. So whatever the
    configuration asks for is in it: the estimator, the target network and its format, checkpointed activations,
    micro-batches. It is the first step, in which ``auto`` measures and DE-CM has all its parts. Operators are those of
    the CPU: attention keeps no matrix of scores, except where forward-mode AD needs the one that does. What an operator
    takes inside, the libraries of a GPU and gaps between allocations are not seen. What FSDP gathers is computed
    (:class:`~rcgm.inspection.memory.sharding.Sharding`).

    Args:
        config: fitted to the data.
        info: of the data.
        processes: that train together.
        rows: samples in a micro-batch of a process; None for those of ``config.batch_size``, the most that one has.
        objective: called as an objective is, instead of that of the configuration.

    Raises:
        ConfigError, ValueError: the network or objective cannot be built.
    """
    if rows is None:
        rows = -(-config.batch_size // (config.accumulate * processes))
    return peak_memories(config, info, processes=(processes,), rows=rows, objective=objective)[0]


def peak_memories(
    config: TrainConfig,
    info: DataInfo,
    *,
    processes: Sequence[int],
    rows: int,
    objective: Callable[..., Any] | None = None,
) -> list[dict[str, float]]:
    """:func:`peak_memory` for several numbers of processes at once, each with ``rows`` samples in a micro-batch."""
    shardings = [Sharding.of(config.parallel, number) for number in processes]
    micro_batches = min(config.accumulate, 2)  # from the second on, gradients are there already
    live = LiveMemory([sharding.view(SHARDED, whole_gradients=micro_batches > 1) for sharding in shardings])
    config = config.model_copy(update={"init_from": None})  # weights have no content here
    with without_content():
        learned = build_objective_from(config) if objective is None else objective
        student = build_network(config, CPU, begin=False).train()
        state = learned.state() if hasattr(learned, "state") else nn.ModuleDict()
        teacher = _teacher(config, learned, student)
        ema = build_ema(config.ema, student)
        adversary = build_adversary(config, teacher, learned, info, CPU)
        if config.parallel.activation_checkpointing != "none":
            parallelize(student, config.parallel, None, keep_gathered=True)
        optimizer = build_optimizer(config.optimizer.model_copy(update={"fused": None}), student, state)
        x, cond, null_cond = _batch(info, student, rows * micro_batches)
        step = TrainStep(
            student,
            learned,
            optimizer,
            ema,
            seed=config.seed,
            accumulate=micro_batches,
            autocast=getattr(torch, config.precision),
            clip_grad_norm=config.optimizer.clip_grad_norm,
            null_cond=null_cond,
            teacher=teacher,
            frozen=() if teacher is None else (teacher.network,),
            adversary=adversary,
        )
        with live:
            _name_parts(live, student, ema, teacher, [x, *_tensors(cond), *_tensors(null_cond)])
            _name_gradients(live, optimizer, GRADIENTS)
            _make_state(live, optimizer, "optimizer")
            if adversary is not None:
                live.name(adversary.heads.parameters(), DISCRIMINATOR)
                _name_gradients(live, adversary.optimizer, DISCRIMINATOR)
                _make_state(live, adversary.optimizer, DISCRIMINATOR)
            _count_gathered(live, shardings[0], config, student, ema, teacher)
            live.forget_peaks()
            step(0, x, cond)
    return [{part: peak.get(part, 0.0) for part in PARTS} for peak in live.peaks]


def _teacher(config: TrainConfig, objective: Any, student: nn.Module) -> Teacher | None:
    """The network before the training, or for that of another run one of the student's size."""
    if config.teacher is None:
        return None
    if config.teacher.base:
        return teacher_before(student, config.teacher, objective)
    return Teacher(build_model_from(config), 0, any_step=config.teacher.kind == "any_step")


def _batch(info: DataInfo, student: nn.Module, rows: int) -> tuple[Tensor, Any, Any]:
    x, cond = batch_like(info, student, CPU, rows)
    if info.text is not None:
        return x, cond, text_condition(info.text, 1)
    return x, cond, None if cond is None else null_condition(student.num_classes, CPU)


def _tensors(cond: Any) -> list[Tensor]:
    if cond is None:
        return []
    return list(cond.values()) if isinstance(cond, dict) else [cond]


def _name_parts(live: LiveMemory, student: nn.Module, ema: Ema, teacher: Teacher | None, batch: list[Tensor]) -> None:
    base = base_of(student)
    mine = list(student.parameters())
    averaged = [parameter for network in ema.copies for parameter in network.parameters()]
    known = {id(parameter) for parameter in (*mine, *averaged)}
    if teacher is not None and base_of(teacher.network) is not base:
        live.name((*teacher.network.parameters(), *teacher.network.buffers()), "teacher")
    live.name((*(p for p in base.parameters() if id(p) not in known), *base.buffers()), "frozen weights")
    live.name([parameter for parameter in mine if not parameter.requires_grad], "frozen weights")
    live.name([parameter for parameter in mine if parameter.requires_grad], "trained weights")
    live.name([*averaged, *(buffer for network in ema.copies for buffer in network.buffers())], "averages")
    live.name(batch, "batch")


def _name_gradients(live: LiveMemory, optimizer: torch.optim.Optimizer, name: str) -> None:
    for parameter in _trained(optimizer):
        parameter.register_post_accumulate_grad_hook(lambda known: live.name([known.grad], name))


def _make_state(live: LiveMemory, optimizer: torch.optim.Optimizer, name: str) -> None:
    """A first step of the optimizer, which makes its state."""
    for parameter in _trained(optimizer):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    live.name(tensors, name)


def _trained(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _count_gathered(
    live: LiveMemory,
    sharding: Sharding,
    config: TrainConfig,
    student: nn.Module,
    ema: Ema,
    teacher: Teacher | None,
) -> None:
    """Gathered parameters: of the student throughout, of other networks from their first forward to their release."""
    is_role = base_of(student) is not student
    settings = config.parallel
    kept = settings.keep_target_gathered if is_role else settings.keep_student_gathered
    always = sharding.gathered(student, all_blocks=kept)
    live.set(GATHERED, always)
    live.set(BUFFERS, sharding.gradient_buffers(student))
    others = [*ema.copies, *([] if teacher is None else [teacher.network])]
    sizes: dict[int, int] = {}

    def gather(network: nn.Module, inputs: Any) -> None:
        sizes[id(network)] = sharding.gathered(network, all_blocks=settings.keep_target_gathered)
        live.set(GATHERED, always + sum(sizes.values()))

    for network in others:
        if base_of(network) is not base_of(student):
            network.register_forward_pre_hook(gather)
    release = ema.release

    def released() -> None:
        release()
        sizes.clear()
        live.set(GATHERED, always)

    ema.release = released  # type: ignore[method-assign]
