"""Pictures of samples while a run trains."""

from __future__ import annotations

from typing import Any

import torch

from rcgm import plots
from rcgm.config import ConfigError, SampleConfig
from rcgm.runs.decoding import Decoder
from rcgm.runs.folder import RunFolder
from rcgm.runs.sampler import RunSampler
from rcgm.training.randomness import global_random_state_kept
from rcgm.training.records import Records

__all__ = ["Previews"]

REFERENCE_POINTS = 2000


class Previews:
    """Draws samples of each number of steps, from the same noise every time.

    Args:
        settings: section ``sample`` of the run.
        sampler: of the network; its processes sample together, and rank 0 draws.
        dataset: with an ``info``; points are drawn beside the samples.
        folder: of the run.
        device: of the network.
        decoder: makes images of samples that are latents, or None.

    Raises:
        ConfigError: a name of a class cannot be drawn.
    """

    def __init__(
        self,
        settings: SampleConfig,
        sampler: RunSampler,
        dataset: Any,
        folder: RunFolder,
        device: torch.device,
        decoder: Decoder | None = None,
    ) -> None:
        for name in dataset.info.class_names or ():
            if not name.isprintable():
                raise ConfigError(f"data: the name of class {name!r} cannot be drawn: rename its folder")
        self._settings = settings
        self._sampler = sampler
        self._dataset = dataset
        self._folder = folder
        self._device = device
        self._decoder = decoder

    def draw(self, step: int, records: Records) -> None:
        """Draw samples, and the loss so far. Each process has to make the call."""
        count, info = self._settings.count, self._dataset.info
        with global_random_state_kept(self._device):
            samples = {
                plots.steps_title(number): self._sampler.draw(count, steps=number) for number in self._settings.steps
            }
        if any(tensor is None for tensor in samples.values()):
            return  # rank 0 has them
        value_range = info.value_range
        if self._decoder is not None:
            samples = {name: self._decoder(latents) for name, latents in samples.items()}
            value_range = (-1.0, 1.0)
        reference = None
        if info.kind == "points":
            reference, _ = self._dataset.take(torch.arange(min(REFERENCE_POINTS, len(self._dataset))))
        figure = plots.sample_panels(
            samples,
            labels=self._sampler.labels(range(count)),
            reference=reference,
            value_range=value_range,
            class_names=info.class_names,
            title=f"step {step:,}",
            captions=self._sampler.texts(range(count)),
        )
        plots.save_figure(self._folder.samples / f"step_{step:08d}.png", figure)
        records.picture("samples", plots.render(figure), step)
        records.draw_loss()
