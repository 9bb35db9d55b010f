"""Samples by number: each from noise of its own, whichever process makes it, and in whatever order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcgm.data import DataInfo
from rcgm.engine.formats import autocast_to
from rcgm.runs.generation import Method, evaluation_mode, null_condition
from rcgm.sampling import SAMPLERS
from rcgm.seeds import Purpose, seed_of, seeded_generator

__all__ = ["RowSampler"]


class RowSampler:
    """Makes the samples of a range of numbers; classes are taken in turn.

    The noise of a sample depends on the seed and its number alone. Fresh noise, of samplers that draw some, depends on
    the first number of the range too. So the same ranges give the same samples, however they are shared out.

    Args:
        network: takes ``(x, t, r, cond)``; its attribute ``num_classes`` tells whether it takes classes.
        info: of the data that it was trained on.
        steps, method, guidance, autocast: see :func:`~rcgm.runs.generation.generate`.
        seed: of the noise.
        device: of the network.

    Raises:
        ValueError: guidance other than 1 for a network without classes.
    """

    def __init__(
        self,
        network: nn.Module,
        info: DataInfo,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        method: Method | None = None,
        guidance: float = 1.0,
        autocast: torch.dtype = torch.float32,
    ) -> None:
        self._network = network
        self._shape = info.shape
        self._classes = info.num_classes if getattr(network, "num_classes", None) is not None else None
        null = null_condition(getattr(network, "num_classes", None), device)
        if guidance != 1.0 and null is None:
            raise ValueError(f"guidance must be 1 for a network without classes, got {guidance}")
        self._null_cond = None if guidance == 1.0 else null
        self._steps = steps
        self._seed = seed
        self._device = device
        self._method = Method() if method is None else method
        self._guidance = guidance
        self._autocast = autocast

    @torch.no_grad()
    def __call__(self, rows: range) -> Tensor:
        """The samples of these numbers, float32 ``[len(rows), ...]``, on the device of the network."""
        labels = None
        if self._classes is not None:
            labels = torch.tensor([row % self._classes for row in rows], device=self._device)
        generator = torch.Generator(device=self._device)
        generator.manual_seed(seed_of(self._seed, Purpose.SAMPLER_OF_RANGE, rows.start))
        with evaluation_mode(self._network), autocast_to(self._autocast, self._device):
            samples = SAMPLERS[self._method.sampler](
                self._network,
                torch.stack([self._noise(row) for row in rows]).to(self._device),
                labels,
                steps=self._steps,
                transport=self._method.transport,
                generator=generator,
                guidance=self._guidance,
                null_cond=self._null_cond,
            )
        return samples.float()

    def _noise(self, row: int) -> Tensor:
        # On the CPU, so that every device starts from the same.
        generator = seeded_generator(self._seed, Purpose.EVALUATION, row)
        return torch.randn(self._shape, generator=generator)
