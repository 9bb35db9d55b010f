"""An endless stream of batches that can be resumed exactly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from rcgm.checks import whole_number
from rcgm.data.protocols import Augmented, BatchReader, Bucketed, Labels
from rcgm.seeds import Purpose, seeded_generator

Batch = tuple[torch.Tensor, Labels]


class BatchStream:
    """Batches of a map-style data set, for ever.

    The batch of step k is a function of `(seed, k)` alone. Each epoch is a permutation of the data set drawn from
    `(seed, epoch)`, cut into batches, the incomplete last one dropped; random changes of a sample are drawn from
    `(seed, epoch, index)`. So a stream built with `start_step=k` goes on exactly where an interrupted one left off,
    with any number of workers; and the rows of a batch are dealt out to the ranks in turn: sharding changes who reads a
    sample, not which samples are read.

    Where samples have several shapes (`rcgm.data.protocols.Bucketed`), a batch holds one of them: the samples of each
    shape are permuted and cut into batches, and the batches of all shapes are then dealt in an order drawn from
    `(seed, epoch)`.

    Iterating gives `(x, labels)`: float32 `[B, ...]` and int64 `[B]`, or None where the data set has no labels (each
    label None or negative), or tensors `[B, ...]` by name where its labels are such; B is batch_size, or this rank's
    share of it. `stream[k]` is the batch of step k, never page-locked.

    Args:
        dataset: `len(dataset)` and `dataset[i] -> (tensor, label or tensors by name)`; see `rcgm.data.protocols` for
            what else is used.
        batch_size: samples a step over all ranks, at most `len(dataset)`, or the samples of some shape.
        seed: at least 0.
        start_step: the step to begin iterating at.
        workers: processes that read ahead, two batches each. Data that lie in memory (`BatchReader.in_memory`) are
            indexed in this process all the same, which is faster.
        rank, world_size: this stream gives groups `rank`, `rank + world_size`, ... of each batch.
        micro_batches: micro-batches of a step. A group holds one row of each, so that the rows of each micro-batch are
            dealt out to the ranks in turn. A batch has at least world_size whole groups.
        pin_memory: give page-locked tensors, for copies to a GPU that do not block. None: where CUDA is available.

    Raises:
        TypeError: dataset is not map-style, or a number is no integer.
        ValueError: a number is out of range, or dataset is smaller than a batch. Iterating raises what dataset raises.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        workers: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        pin_memory: bool | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(f"dataset must have __len__ and __getitem__ (map style), got {type(dataset).__name__}")
        self._dataset = dataset
        self._batch_size = whole_number("batch_size", batch_size, 1)
        self._seed = whole_number("seed", seed, 0)
        self._start_step = whole_number("start_step", start_step, 0)
        self._workers = whole_number("workers", workers, 0)
        self._world_size = whole_number("world_size", world_size, 1)
        self._rank = whole_number("rank", rank, 0)
        if self._rank >= self._world_size:
            raise ValueError(f"rank must be from 0 to {self._world_size - 1}, got {rank}")
        self._micro_batches = whole_number("micro_batches", micro_batches, 1)
        if self._batch_size // self._micro_batches < self._world_size:
            raise ValueError(
                f"batch_size must be at least {world_size * micro_batches}, a sample of each micro-batch for each "
                f"of the {world_size} ranks, got {batch_size} in {micro_batches} micro-batches"
            )
        self._buckets = list(dataset.buckets) if isinstance(dataset, Bucketed) else None
        most = max(map(len, [range(len(dataset))] if self._buckets is None else self._buckets))
        if most < self._batch_size:
            of_what = "of the data" if self._buckets is None else "of the most frequent shape of the data"
            raise ValueError(f"batch_size must be at most {most}, the number of samples {of_what}, got {batch_size}")
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._last_epoch: tuple[int, torch.Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one permutation of the data set."""
        buckets = [range(len(self._dataset))] if self._buckets is None else self._buckets
        return sum(len(bucket) // self._batch_size for bucket in buckets)

    def notes(self) -> list[str]:
        """Where samples have several shapes: how many an epoch leaves out, and of how many shapes it leaves out all."""
        if self._buckets is None:
            return []
        without = [len(bucket) for bucket in self._buckets if len(bucket) < self._batch_size]
        left_out = len(self._dataset) - self.steps_per_epoch * self._batch_size
        lines = [
            f"batches: {self.steps_per_epoch:,} of {self._batch_size:,} in an epoch, each of one shape; "
            f"{left_out:,} samples are left out, others in each epoch"
        ]
        if without:
            lines.append(
                f"shapes with fewer samples than a batch: {len(without):,}, whose {sum(without):,} samples are never "
                "used: make batch_size smaller, or encode with fewer shapes"
            )
        return lines

    def indices(self, step: int) -> torch.Tensor:
        """This rank's indices into the data set at `step`: int64 `[B]`."""
        epoch, position = divmod(whole_number("step", step, 0), self.steps_per_epoch)
        whole = self._order(epoch)[position * self._batch_size :][: self._batch_size]
        return torch.cat(whole.split(self._micro_batches)[self._rank :: self._world_size])

    def __getitem__(self, step: int) -> Batch:
        indices = self.indices(step)
        if isinstance(self._dataset, Augmented):
            epoch = step // self.steps_per_epoch
            samples = [
                self._dataset.augmented(index, seeded_generator(self._seed, Purpose.AUGMENTATION, epoch, index))
                for index in indices.tolist()
            ]
            return _collate(samples)
        if isinstance(self._dataset, BatchReader):
            return self._dataset.take(indices)
        return _collate([self._dataset[index] for index in indices.tolist()])

    def __iter__(self) -> Iterator[Batch]:
        steps = itertools.count(self._start_step)
        if self._workers == 0 or getattr(self._dataset, "in_memory", False):
            batches = (self._pinned(self[step]) for step in steps)
        else:
            # The item of index k is the batch of step k, so whichever worker reads it, it is the same. Without a
            # generator of its own the loader would draw the seeds of its workers from torch's global one.
            batches = DataLoader(
                self,  # type: ignore[arg-type]
                batch_size=None,
                sampler=steps,  # type: ignore[arg-type]
                num_workers=self._workers,
                pin_memory=self._pin_memory,
                generator=torch.Generator(),
            )
        # The loader turns tuples into lists.
        yield from map(tuple, batches)

    def _pinned(self, batch: Batch) -> Batch:
        if not self._pin_memory:
            return batch
        x, labels = batch
        if isinstance(labels, Mapping):
            return x.pin_memory(), {name: tensor.pin_memory() for name, tensor in labels.items()}
        return x.pin_memory(), None if labels is None else labels.pin_memory()

    def _order(self, epoch: int) -> torch.Tensor:
        """Indices of the samples of an epoch, batch after batch; without buckets the incomplete last one too."""
        if self._last_epoch is None or self._last_epoch[0] != epoch:
            order = self._permuted(len(self._dataset), epoch) if self._buckets is None else self._in_buckets(epoch)
            self._last_epoch = (epoch, order)
        return self._last_epoch[1]

    def _in_buckets(self, epoch: int) -> torch.Tensor:
        batches = []
        for number, bucket in enumerate(self._buckets):
            whole = len(bucket) // self._batch_size * self._batch_size
            order = self._permuted(len(bucket), epoch, number)[:whole] + bucket.start
            batches.append(order.reshape(-1, self._batch_size))
        dealt = torch.cat(batches)
        return dealt[self._permuted(len(dealt), epoch)].flatten()

    def _permuted(self, count: int, *key: int) -> torch.Tensor:
        return torch.randperm(count, generator=seeded_generator(self._seed, Purpose.ORDER, *key))


def _collate(samples: list[tuple[torch.Tensor, Any]]) -> Batch:
    x = torch.stack([sample for sample, _ in samples])
    first = samples[0][1]
    if isinstance(first, Mapping):
        return x, {name: torch.stack([cond[name] for _, cond in samples]) for name in first}
    labels = [-1 if label is None else int(label) for _, label in samples]
    if all(label < 0 for label in labels):
        return x, None
    if any(label < 0 for label in labels):
        raise ValueError("dataset gives some samples a label and others none; all or none of them need one")
    return x, torch.tensor(labels, dtype=torch.int64)
