"""Samples of a network: the same noise and the same classes for every number of steps, so that they compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rcgm.data import DataInfo
from rcgm.distributed.shares import Processes
from rcgm.engine.formats import autocast_to
from rcgm.objectives import Objective
from rcgm.sampling import SAMPLERS
from rcgm.seeds import Purpose, seed_of, seeded_generator
from rcgm.transports import Linear, Transport

__all__ = ["Method", "Request", "evaluation_mode", "generate", "method_of", "null_condition"]

CHUNK = 512
"""Samples that are made at a time."""


@dataclass(frozen=True)
class Method:
    """How a network is sampled: a key of ``SAMPLERS``, and the transport that it was trained on."""

    sampler: str = "any_step"
    transport: Transport = field(default_factory=Linear)


def method_of(objective: Objective, sampler: str = "auto") -> Method:
    """How a network trained with ``objective`` is sampled; ``"auto"`` is the sampler that it is made for."""
    return Method(objective.sampler if sampler == "auto" else sampler, objective.transport)


class Request:
    """Noise and classes of samples to be made.

    Args:
        info: of the data that the network was trained on.
        count: number of samples, at least 1.
        seed: of the noise.
        purpose: keeps the noise of different uses apart.
        conditional: whether the network takes classes.
        classes: which classes, in turn; None for all of them.

    Attributes:
        noise: float32 ``[count, *info.shape]``, drawn on the CPU, so that every device starts from the same.
        labels: int64 ``[count]``, or None.

    Raises:
        ValueError: a class that does not exist, or classes for a network without.
    """

    def __init__(
        self,
        info: DataInfo,
        count: int,
        *,
        seed: int,
        purpose: Purpose,
        conditional: bool,
        classes: Sequence[int] | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if not conditional:
            if classes is not None:
                raise ValueError(f"classes must not be given, got {list(classes)}: the network has no classes")
        else:
            known = range(info.num_classes or 0)
            classes = list(known if classes is None else classes)
            wrong = [value for value in classes if value not in known]
            if wrong or not classes:
                raise ValueError(f"classes must be from 0 to {len(known) - 1}, got {wrong or classes}")
        generator = seeded_generator(seed, purpose)
        self.noise = torch.randn(count, *info.shape, generator=generator)
        self.labels = None if classes is None else torch.tensor(classes).repeat(-(-count // len(classes)))[:count]


def null_condition(num_classes: int | None, device: torch.device) -> Tensor | None:
    """What a dropped class becomes: int64 ``[1]`` holding ``num_classes``; None for a network without classes."""
    return None if num_classes is None else torch.tensor([num_classes], device=device)


@torch.no_grad()
def generate(
    network: nn.Module,
    request: Request,
    *,
    steps: int,
    device: torch.device,
    method: Method | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    autocast: torch.dtype = torch.float32,
    on_chunk: Callable[[int], None] | None = None,
    processes: Processes | None = None,
) -> Tensor:
    """Sample ``network`` in ``steps`` steps.

    Args:
        network: takes ``(x, t, r, cond)``; its attribute ``num_classes`` tells whether it takes classes.
        request: noise and classes.
        steps: of the sampler.
        device: of the network.
        method: which sampler, on which transport; None for jumps under the linear one.
        seed: of the fresh noise of samplers that draw some.
        guidance: scale of classifier-free guidance while sampling; 1 for none.
        autocast: dtype of the forwards; torch.float32 for no autocast.
        on_chunk: called with the number of samples that have been made since its last call.
        processes: that share the samples out, and all get all of them; each has to make this call. Samplers that draw
            fresh noise draw another than one process would.

    Returns:
        float32 ``[count, ...]`` on the CPU.

    Raises:
        ValueError: guidance other than 1 for a network without classes.
    """
    null_cond = null_condition(getattr(network, "num_classes", None), device)
    if guidance != 1.0 and null_cond is None:
        raise ValueError(f"guidance must be 1 for a network without classes, got {guidance}")
    processes = Processes() if processes is None else processes
    count = len(request.noise)
    # As many for each, if need be the last one more than once: a sharded network is run by all of them together.
    own = (torch.arange(-(-count // processes.world_size)) * processes.world_size + processes.rank).clamp(max=count - 1)
    made = []
    method = Method() if method is None else method
    sample = SAMPLERS[method.sampler]
    generator = torch.Generator(device=device).manual_seed(seed_of(seed, Purpose.SAMPLER, processes.rank))
    with evaluation_mode(network), autocast_to(autocast, device):
        for rows in own.split(CHUNK):
            noise = request.noise[rows].to(device)
            labels = None if request.labels is None else request.labels[rows].to(device)
            samples = sample(
                network, noise, labels, steps=steps, transport=method.transport, generator=generator, guidance=guidance,
                null_cond=None if guidance == 1.0 else null_cond,
            )  # fmt: skip
            made.append(samples.float().cpu())
            if on_chunk is not None:
                on_chunk(len(noise))
    here = torch.cat(made)
    if processes.world_size == 1:
        return here
    everywhere = [torch.empty_like(here) for _ in range(processes.world_size)]
    dist.all_gather(everywhere, here)
    return torch.stack(everywhere, 1).flatten(0, 1)[:count]


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """``network.eval()``, and back to what it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
