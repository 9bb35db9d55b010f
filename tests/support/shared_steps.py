"""Run in two processes by ``test_shared_steps.py``: steps of several objectives, shared by both and made by one.

Writes a JSON file: for each case how far the two are apart, or what was counted.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rcgm.adversarial import Discriminator, Features, Heads
from rcgm.config import DiscriminatorConfig, OptimizerConfig, ParallelConfig
from rcgm.derivatives import Auto, ForwardMode
from rcgm.distributed import make_mesh, parallelize, running_processes
from rcgm.distributed.shares import Processes, Share
from rcgm.models import DiT
from rcgm.objectives import RCGM, SCM, UCGM, MeanFlow, Objective, ObjectiveOutput, TwinFlow
from rcgm.objectives.times import TimeSampler
from rcgm.roles import Role, lora_role
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.nonfinite_guard import NonFiniteGuard
from rcgm.training.optimizers import build_optimizer
from rcgm.training.step import TrainStep
from rcgm_kernels import Metric
from tests.support.roles import disturb

DEPTH = 2
CPU = torch.device("cpu")


class Calls(TorchDispatchMode):
    """Counts collectives by name. Inside it ``torch.compile`` compiles nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count: collections.Counter = collections.Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        namespace, _, name = operator._schema.name.partition("::")
        if namespace == "c10d":
            self.count[name] += 1
        return operator(*args, **(kwargs or {}))


def build_student(dtype: torch.dtype) -> nn.Module:
    network = DiT(
        input_size=4, in_channels=2, patch_size=2, hidden_size=8, depth=DEPTH, num_heads=2, num_classes=3,
        frequency_size=8,
    ).to(dtype)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        # Larger than a DiT's own initial weights, most of whose gradients are 0.
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def build_role(network: nn.Module) -> Role:
    torch.manual_seed(0)
    role = lora_role(network, rank=3)  # which two processes do not share evenly
    disturb(role, 1)
    return role


@dataclass(frozen=True)
class Problem:
    """A network, a batch and its condition, and what a dropped condition becomes."""

    build: Callable[[], nn.Module]
    x: Tensor
    cond: Any
    null: Any


def small_problem(dtype: torch.dtype, rows: int, base: torch.dtype | None) -> Problem:
    """A small DiT with classes; with ``base``, a role with adapters of ``dtype`` on a base of that dtype."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 2, 4, 4, generator=generator, dtype=dtype)
    labels = torch.randint(3, (rows,), generator=generator)

    def build() -> nn.Module:
        return build_student(dtype) if base is None else build_role(build_student(base))

    return Problem(build, x, labels, torch.tensor([3]))


def run(
    objective: Any,
    processes: Processes,
    config: ParallelConfig,
    *,
    decay: float = 0.9,
    cast: torch.dtype | None = None,
    target_decay: float | None = None,
    accumulate: int = 1,
    compile: str | bool = False,
    rows: int = 10,
    steps: int = 2,
    distilled: bool = False,
    careful: bool = False,
    discriminator: DiscriminatorConfig | None = None,
    dtype: torch.dtype = torch.float64,
    counted: bool = False,
    base: torch.dtype | None = None,
    problem: Problem | None = None,
) -> tuple[dict[str, list[Tensor]], list[collections.Counter]]:
    """Everything that a few steps compute, as whole tensors, and the collectives of each step where ``counted``.

    Of ``problem``, or of ``small_problem(dtype, rows, base)``.
    """
    problem = small_problem(dtype, rows, base) if problem is None else problem
    student, rows = problem.build(), len(problem.x)
    shared = isinstance(student, Role)
    ema = Ema(student, decay, cast=cast, target_decay=target_decay)
    teacher = None
    if distilled:
        teacher = student.without_adapter() if shared else problem.build().requires_grad_(False)
    adversary = None if discriminator is None else build_adversary(discriminator, teacher, objective, dtype)
    mesh = make_mesh(config, CPU, processes.world_size)
    kept = config.keep_target_gathered if shared else config.keep_student_gathered
    parallelize(student, config, mesh, compile=compile, keep_gathered=kept)
    for copy in [] if shared else ema.copies:
        parallelize(copy, config, mesh, compile=compile, keep_gathered=config.keep_target_gathered)
    if teacher is not None and not shared:
        parallelize(teacher, config, mesh, compile=compile, keep_gathered=config.keep_target_gathered)
    memory = objective.state()
    optimizer = build_optimizer(OptimizerConfig(lr=1e-3), student, memory)
    guard = NonFiniteGuard(steps, CPU) if careful else None
    known = torch.nan_to_num if careful else lambda tensor: tensor
    results: dict[str, list[Tensor]] = collections.defaultdict(list)
    optimizer.register_step_pre_hook(
        lambda *_: results["gradients"].extend(
            known(whole(parameter.grad)) for parameter in student.parameters() if parameter.grad is not None
        )
    )
    step = TrainStep(
        student,
        objective,
        optimizer,
        ema,
        seed=1,
        accumulate=accumulate,
        null_cond=problem.null,
        clip_grad_norm=1.0,
        teacher=teacher,
        frozen=() if teacher is None else (teacher,),
        processes=processes,
        guard=guard,
        adversary=adversary,
    )
    here = torch.cat(torch.arange(rows).split(accumulate)[processes.rank :: processes.world_size])
    counts = []
    for number in range(steps):
        calls = Calls()
        with calls if counted else nullcontext():
            own = pytree.tree_map(lambda tensor: tensor[here], problem.cond)
            result = step(number, problem.x[here], own, total=rows)
        counts.append(calls.count)
        results["losses"].append(known(result.loss))
        results["norms"].append(known(result.grad_norm))
    assert guard is None or guard.read() == 1
    results["parameters"] = [whole(parameter) for parameter in student.parameters()]
    results["average"] = [whole(parameter) for parameter in ema.network.parameters()]
    if ema.second is not None:
        results["average"] += [whole(parameter) for parameter in ema.second.network.parameters()]
    if cast is not None:
        # 0 wherever the copy is the average in the other format; each process rounds its shards.
        pairs = zip(*(copy.parameters() for copy in ema.copies), strict=True)
        results["cast"] = [whole(low).double() - whole(kept).to(cast).double() for kept, low in pairs]
    if adversary is not None:
        results["heads"] = [parameter.detach() for parameter in adversary.heads.parameters()]
        results["report"] = list(adversary.report().values())
    results["memory"] = [tensor.detach() for tensor in memory.state_dict().values()]
    return results, counts


def build_adversary(config: DiscriminatorConfig, teacher: nn.Module, objective: Any, dtype: torch.dtype) -> Adversary:
    torch.manual_seed(0)
    heads = Heads([8] * config.features, config.hidden).to(dtype)
    features = Features(teacher, config.features)
    return Adversary(Discriminator(features, heads, objective.transport, config.settings()), config, seed=1)


class Spoiled:
    """An objective whose loss is not a number in step 1, in the last process."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def state(self) -> nn.ModuleDict:
        return self.objective.state()

    def __call__(self, *arguments: Any, step: int, share: Share, **options: Any) -> ObjectiveOutput:
        output = self.objective(*arguments, step=step, share=share, **options)
        spoiled = step == 1 and share.rank == share.world_size - 1
        return replace(output, loss=output.loss * math.nan) if spoiled else output


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def distance(one: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> dict[str, float]:
    """Largest relative difference of each kind of result, by the largest value of that kind."""
    far = {}
    for name, expected in one.items():
        pairs = list(zip(expected, other[name], strict=True))
        if not pairs:
            continue
        largest = max(float(a.double().abs().max()) for a, _ in pairs)
        far[name] = max(float((a.double() - b.double()).abs().max()) for a, b in pairs) / max(largest, 1e-30)
    return far


def compared(
    build: Callable[[], Any], processes: Processes, parallel: dict[str, Any], options: dict[str, Any]
) -> dict[str, float]:
    """How far the steps of all processes are from those of one without micro-batches, in the first process."""
    alone = {**options, "compile": False, "accumulate": 1}
    expected = run(build(), Processes(), ParallelConfig(), **alone)[0] if processes.is_main else {}
    shared, _ = run(build(), processes, ParallelConfig(**parallel), **options)
    return distance(expected, shared)


JUDGED = {
    "distilled": True,
    "discriminator": DiscriminatorConfig(
        weight=0.5, loss="relativistic", fraction=0.3, starts=(1.0, 0.5), penalty=0.1, features=2, hidden=8
    ),
}
OBJECTIVES = {
    "rcgm": lambda: RCGM(order=2, dt=0.1, label_dropout=0.3),
    "mean_flow": lambda: MeanFlow(times=TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.5)),
    "ucgm": lambda: UCGM(),
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "without average": ({}, {"decay": 0.0}),
    "accumulation": ({}, {"accumulate": 2}),
    "full recomputation": ({"activation_checkpointing": "full"}, {}),
    "selective recomputation": ({"activation_checkpointing": "selective"}, {}),
    "compiled, and everything": (
        {"activation_checkpointing": "selective", "keep_student_gathered": True, "keep_target_gathered": False},
        {"accumulate": 2, "compile": "aot_eager"},
    ),
}
OTHERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "replicate": (OBJECTIVES["rcgm"], {"shard": "replicate"}, {}),
    "hybrid": (OBJECTIVES["rcgm"], {"shard": "hybrid", "shard_size": 2}, {}),
    "inductor": (OBJECTIVES["rcgm"], {}, {"compile": True, "steps": 1}),
    "teacher": (lambda: RCGM(dt=0.1, supervision="teacher"), {"keep_student_gathered": True}, {"distilled": True}),
    "learned weight": (lambda: SCM(weighting="learned", warmup_steps=0), {}, {}),
    "automatic step": (lambda: MeanFlow(derivative=Auto(every=1)), {}, {"steps": 3}),
    # 3 of 4 rows have r = t, and with them all rows of one process
    "one row to evaluate": (lambda: RCGM(dt=0.1, times=TimeSampler(equal=0.75)), {}, {"rows": 4}),
    "two averages": (OBJECTIVES["rcgm"], {}, {"target_decay": 0.5}),
    "a step left out": (lambda: Spoiled(RCGM(dt=0.1)), {}, {"careful": True, "steps": 3}),
    # 7 of 10 rows have r = t, and with them both rows of some micro-batches
    "micro-batches of a row": (
        lambda: MeanFlow(times=TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.7)),
        {},
        {"accumulate": 5},
    ),
    "micro-batches of other sizes": (OBJECTIVES["rcgm"], {}, {"accumulate": 2, "rows": 9}),
    # in a micro-batch of 4 rows one process has the fake, and the other the rectified sample
    "fakes in one process": (
        lambda: TwinFlow(dt=0.1, label_dropout=0.3, metric=Metric()),
        {},
        {"accumulate": 2, "rows": 8},
    ),
    # 3 of 10 rows are judged: one process has two of them, the other one; of five micro-batches some have none
    "discriminator": (OBJECTIVES["rcgm"], {}, JUDGED),
    "discriminator, micro-batches": (
        OBJECTIVES["rcgm"],
        {"activation_checkpointing": "full"},
        {**JUDGED, "accumulate": 5, "compile": "aot_eager"},
    ),
    "cast average": (OBJECTIVES["rcgm"], {}, {"cast": torch.bfloat16}),
}


def main(path: Path) -> None:
    with running_processes("cpu") as processes:
        report: dict[str, Any] = {}
        cases = {
            f"{name}, {variant}": (build, parallel, options)
            for name, build in OBJECTIVES.items()
            for variant, (parallel, options) in VARIANTS.items()
        } | OTHERS
        for name, (build, parallel, options) in cases.items():
            before = counters["frames"]["ok"]
            report[name] = compared(build, processes, parallel, options)
            if options.get("compile"):
                report[f"frames compiled, {name}"] = counters["frames"]["ok"] - before
        for kept in (True, False):
            for order in (1, 2, 4):
                objective = RCGM(order=order, dt=0.1, points="jump")
                _, counts = run(objective, processes, ParallelConfig(keep_target_gathered=kept), counted=True)
                report[f"gathers, kept {kept}, order {order}"] = [count["_allgather_base_"] for count in counts]
        half = ParallelConfig(gather_dtype="bfloat16", reduce_dtype="float32")
        expected, _ = run(OBJECTIVES["ucgm"](), Processes(), ParallelConfig(), dtype=torch.float32)
        shared, _ = run(OBJECTIVES["ucgm"](), processes, half, dtype=torch.float32)
        report["gathered in bfloat16"] = distance(expected, shared)
        report["dtypes of bfloat16"] = sorted({str(tensor.dtype) for tensor in shared["parameters"]})
        _, counts = run(OBJECTIVES["rcgm"](), processes, ParallelConfig(), accumulate=2, steps=1, counted=True)
        report["scatters of two micro-batches"] = [count["_reduce_scatter_base_"] for count in counts]
        try:
            report["jvp"] = compared(lambda: MeanFlow(derivative=ForwardMode()), processes, {}, {})
        except ValueError as error:
            report["jvp"] = str(error)
        if processes.is_main:
            path.write_text(json.dumps(report, indent=1))
