"""FID, Inception Score, precision and recall of a run: made and judged by all its processes, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rcgm.config import ConfigError
from rcgm.data import DataInfo, of_one_shape, samples_at
from rcgm.distributed.shares import Processes
from rcgm.evaluation import FeatureNetwork, Reference, evaluate_images, read_reference, write_reference

__all__ = ["Decode", "ImageMeasure", "as_pixels"]

Decode = Callable[[Tensor], Tensor]
"""Samples of latents, normalised as in training, to images ``[N, channels, H, W]`` in [-1, 1]."""


class _Sampler(Protocol):
    def __call__(self, rows: range, *, steps: int) -> Tensor: ...


class ImageMeasure:
    """Compares images that a network makes with real ones.

    Batches are dealt out whole, so that the numbers do not depend on how many processes there are. Images are dropped
    when their features are known: rank 0 keeps the features of all images (50,000 of Inception take 0.6 GB with the
    logits) and computes the numbers.

    Args:
        network: what judges images: features and logits.
        dataset: whose ``info`` describes the samples; the real images, where there is no file of their statistics.
        device: to judge on.
        reference: file for :func:`~rcgm.evaluation.read_reference`, or None.
        reference_count: images of ``dataset`` to compare with, evenly spaced; all where it has fewer.
        batch_size: images at a time in a process.
        decode: makes images of samples that are latents.
        processes: that take part; each has to make every call.
        save_reference: file to which the statistics of the real images are written when they are computed.

    Raises:
        ConfigError: the samples are neither images nor decoded.
        FileNotFoundError, ValueError: ``reference`` cannot be used.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        dataset: Any,
        *,
        device: torch.device,
        reference: str | None = None,
        reference_count: int = 50_000,
        batch_size: int = 64,
        decode: Decode | None = None,
        processes: Processes | None = None,
        save_reference: Path | None = None,
    ) -> None:
        self._network = network
        self._dataset = dataset
        self._pixels = as_pixels(dataset.info, decode)
        self._device = device
        self._batch_size = batch_size
        self._processes = Processes() if processes is None else processes
        self._save_reference = save_reference
        self._count = reference_count
        self._known, self._images = (None, None) if reference is None else read_reference(reference)
        self._reference: Reference | None = None
        self._reference_is_made = False

    def __call__(
        self, sampler: _Sampler, count: int, *, steps: int, on_chunk: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        """Measure ``count`` samples, at least 10; see :class:`~rcgm.runs.measures.Measure`.

        Returns:
            That of :func:`~rcgm.evaluation.evaluate_images` on rank 0; nothing on the other ranks.
        """
        reference = self.reference()
        judged = self._judge(lambda rows: self._pixels(sampler(rows, steps=steps)), count, on_chunk)
        if judged is None or reference is None:
            return {}
        features, logits = judged
        return evaluate_images(features.to(self._device), logits, reference)

    def reference(self) -> Reference | None:
        """What the samples are compared with, computed at the first call; None on other ranks than 0."""
        if not self._reference_is_made:
            self._reference = self._of_data() if self._known is None else self._of_file(self._known)
            self._reference_is_made = True
            if self._reference is not None and self._save_reference is not None:
                write_reference(self._save_reference, self._reference)
        return self._reference

    def _of_file(self, known: Reference) -> Reference | None:
        images, self._images = self._images, None
        if images is None:
            return known if self._processes.is_main else None
        judged = self._judge(lambda rows: images[rows.start : rows.stop], len(images))
        return judged and Reference(known.mean, known.covariance, judged[0])

    def _of_data(self) -> Reference | None:
        alike = of_one_shape(self._dataset)
        count = min(self._count, len(alike))
        indices = torch.arange(count) * len(alike) // count + alike.start

        def real(rows: range) -> Tensor:
            return self._pixels(samples_at(self._dataset, indices[rows.start : rows.stop]))

        judged = self._judge(real, count)
        return judged and Reference.of(judged[0])

    @torch.no_grad()
    def _judge(
        self, images: Callable[[range], Tensor], count: int, on_chunk: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Features and logits of all images, on the CPU, on rank 0; None on the other ranks."""
        features, logits = [], []
        for rows in self._processes.deal(count, self._batch_size):
            outputs = self._network(images(rows).to(self._device))
            for kept, output in zip((features, logits), outputs, strict=True):
                kept.append(output.float().cpu())
            if on_chunk is not None:
                on_chunk(min(len(rows) * self._processes.world_size, count))
        collected = [self._processes.collect(kept, count, self._batch_size) for kept in (features, logits)]
        return None if collected[0] is None else (collected[0], collected[1])


def as_pixels(info: DataInfo, decode: Decode | None) -> Callable[[Tensor], Tensor]:
    """A function from samples to images uint8 ``[N, 3, H, W]``, rounded as writing them to files would.

    Raises:
        ConfigError: the samples are neither images nor decoded.
    """
    plain = info.kind == "images" and info.value_range is not None and info.shape[0] in (1, 3)
    if decode is None and not plain:
        raise ConfigError("evaluate.features needs images: of latents, set the decoder (sample.decoder)")
    low, high = (-1.0, 1.0) if decode is not None else info.value_range

    def pixels(samples: Tensor) -> Tensor:
        images = samples if decode is None else decode(samples)
        if not bool(torch.isfinite(images).all()):
            raise ValueError("the samples are not finite: the network that made them has diverged")
        scaled = (images.float() - low) * (255.0 / (high - low))
        return scaled.round_().clamp_(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)

    return pixels
