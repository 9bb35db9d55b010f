"""The variants of the training-step benchmark: one network, its EMA and optimizer, shared by all, and what differs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.forward_mode import JvpMeanFlow, by_block, by_dual_numbers, by_transform, use_flash_jvp
from benchmarks.memory import held
from rcgm.config import OptimizerConfig
from rcgm.derivatives import Central
from rcgm.models import DiT
from rcgm.objectives import RCGM, FlowMatching, MeanFlow
from rcgm.objectives.times import TimeSampler
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer
from rcgm.training.step import TrainStep

CLASSES = 1000
TIMES = TimeSampler("logit_normal", -0.4, 1.0, interval="sorted")
"""Every sample has an interval: where ``r = t`` in a part of them, that part costs some variants nothing."""


@dataclass(frozen=True)
class Variant:
    """A row of the benchmark.

    Args:
        name: of the row.
        make: the objective, from the plain network and the compiler (None: eager).
        flash_jvp: whether attention has the flash kernel for forward mode.
        family: ``"flow matching"``, ``"rcgm"``, ``"difference"`` or ``"jvp"``.
    """

    name: str
    make: Callable[[DiT, str | None], Callable[..., Any]]
    family: str
    flash_jvp: bool = False


def _rcgm(order: int, points: str) -> Variant:
    name = f"RCGM, order {order}" + (f", {points}" if order > 1 else "")
    return Variant(name, lambda network, compiler: RCGM(times=TIMES, order=order, points=points), "rcgm")


def _jvp(name: str, gradient: bool, *, dual: bool = False, flash: bool = False) -> Variant:
    def make(network: DiT, compiler: str | None) -> JvpMeanFlow:
        plain = by_dual_numbers if dual else by_transform
        derivative = plain if compiler is None else by_block(network, compiler)
        return JvpMeanFlow(MeanFlow(times=TIMES), derivative, gradient)

    return Variant(f"MeanFlow, {name}", make, "jvp", flash)


VARIANTS = (
    Variant("flow matching", lambda network, compiler: FlowMatching(times=TIMES), "flow matching"),
    _rcgm(1, "rollout"),
    _rcgm(2, "rollout"),
    _rcgm(2, "jump"),
    _rcgm(4, "rollout"),
    _rcgm(4, "jump"),
    Variant(
        "MeanFlow, central difference",
        lambda network, compiler: MeanFlow(times=TIMES, derivative=Central()),
        "difference",
    ),
    _jvp("jvp without gradient", False),
    _jvp("jvp with gradient", True),
    _jvp("dual numbers with gradient", True, dual=True),
    _jvp("jvp without gradient, flash", False, flash=True),
    _jvp("jvp with gradient, flash", True, flash=True),
)


class Bench:
    """A DiT with 1,000 classes, its EMA and AdamW on ``device``; every variant trains the same parameters.

    Args:
        preset: of the DiT.
        shape: of a sample, ``(channels, height, width)``.
        autocast: number format of the forwards.
        arguments: of the DiT, that win over the preset's.
    """

    def __init__(
        self, preset: str, shape: tuple[int, int, int], device: torch.device, autocast: torch.dtype, **arguments: Any
    ) -> None:
        self.shape, self.device, self.autocast = shape, device, autocast
        channels, *size = shape
        with torch.device(device):
            self.network = DiT.from_preset(
                preset, input_size=tuple(size), in_channels=channels, num_classes=CLASSES, **arguments
            ).to(device)
        self.ema = Ema(self.network, 0.999)
        self.optimizer = build_optimizer(OptimizerConfig(lr=1e-5), self.network)

    def step(self, variant: Variant, batch: int, compiler: str | None = None) -> Callable[[], object]:
        """One training step of ``variant`` on a random batch: EMA, forwards, backward, optimizer."""
        generator = torch.Generator(self.device).manual_seed(0)
        x = torch.randn((batch, *self.shape), generator=generator, device=self.device)
        labels = torch.randint(CLASSES, (batch,), generator=generator, device=self.device)
        student, target = (self._network(network, variant, compiler) for network in (self.network, self.ema.network))
        objective = variant.make(self._network(self.network, variant, None), compiler)
        train = TrainStep(
            student, objective, self.optimizer, _Shared(self.ema, target), seed=0, autocast=self.autocast
        )  # fmt: skip
        return lambda: train(0, x, labels)

    def state_bytes(self) -> int:
        """What parameters, EMA and optimizer take, after the first step."""
        kept = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return held([*self.network.parameters(), *self.network.buffers(), *self.ema.network.parameters(),
                     *self.ema.network.buffers(), *kept])  # fmt: skip

    def _network(self, network: DiT, variant: Variant, compiler: str | None) -> DiT:
        """The network with the same parameters, but attention and compiled blocks of its own."""
        if not variant.flash_jvp and compiler is None:
            return network
        twin = copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})
        if variant.flash_jvp:
            use_flash_jvp(twin)
        if compiler is not None:
            compile_blocks(twin, compiler)
        return twin


def compile_blocks(network: DiT, compiler: str) -> None:
    """Compile the blocks in place: one graph for all of them."""
    for block in network.blocks:
        block.compile(backend=compiler, dynamic=False)


@dataclass(frozen=True)
class _Shared:
    """An EMA that several steps move, and a form of its network."""

    ema: Ema
    target: nn.Module

    def step(self) -> None:
        self.ema.step()

    def release(self) -> None:
        self.ema.release()
