"""Measures of samples while a run trains and at its end."""

from __future__ import annotations

from typing import Any

import torch

from rcgm.config import EvaluateConfig
from rcgm.distributed.shares import Processes
from rcgm.runs.decoding import Decoder
from rcgm.runs.measures import Measure, build_measure, measure_steps
from rcgm.runs.progress import counting
from rcgm.runs.sampler import RunSampler
from rcgm.training.randomness import global_random_state_kept
from rcgm.training.records import Records

__all__ = ["Evaluator"]


class Evaluator:
    """Measures samples in each number of steps, if there is a measure for such data.

    Args:
        settings: section ``evaluate`` of the run.
        sampler: of the network.
        dataset: with an ``info``.
        device: of the network.
        decoder: makes images of samples that are latents, or None.
        processes: of the run; each has to make every call.
        show_progress: whether to report on stderr.

    Attributes:
        latest: the last report, by number of steps; empty on other ranks than 0 and before the first.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: ``settings.features`` or ``settings.reference`` cannot be
            used.
    """

    def __init__(
        self,
        settings: EvaluateConfig,
        sampler: RunSampler,
        dataset: Any,
        device: torch.device,
        *,
        decoder: Decoder | None,
        processes: Processes,
        show_progress: bool,
    ) -> None:
        self.latest: dict[str, dict[str, float]] = {}
        self._settings = settings
        self._sampler = sampler
        self._dataset = dataset
        self._device = device
        self._decoder = decoder
        self._processes = processes
        self._show_progress = show_progress
        self._measure: Measure | None = None
        if settings.features is not None and (settings.at_end or settings.every):
            self._measure = self._built()  # what is missing for it is said before the first step

    def evaluate(self, step: int, records: Records) -> None:
        """Measure, and record the numbers. Each process has to make the call."""
        settings = self._settings
        if self._measure is None:
            self._measure = self._built()
        if self._measure is None:
            return
        total = settings.count * len(settings.steps)
        with (
            global_random_state_kept(self._device),
            counting(total, "samples", enabled=self._show_progress) as on_chunk,
        ):
            self.latest = measure_steps(
                self._measure, self._sampler, steps=settings.steps, count=settings.count, on_chunk=on_chunk
            )
        records.evaluation(step, self.latest)

    def _built(self) -> Measure | None:
        with global_random_state_kept(self._device):
            return build_measure(
                self._dataset,
                self._settings,
                device=self._device,
                decode=self._decoder,
                processes=self._processes,
            )
