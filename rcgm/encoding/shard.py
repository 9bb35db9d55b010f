"""One shard of latents."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.data.latents.moments import draw, split_moments
from rcgm.data.latents.shards import FLIPS, LABELS, LATENTS
from rcgm.encoding.plan import Plan
from rcgm.encoding.record import Record, write_shard
from rcgm.encoding.statistics import ChannelStatistics
from rcgm.seeds import Purpose, seeded_generator


class Shard:
    """A shard that is being filled, batch by batch.

    Args:
        plan: that it belongs to.
        number: of the shard.
    """

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._number = number
        self._members = plan.members(number)
        self._filled = 0
        self._stamp = plan.stamp(number)  # before any is read: one that is replaced meanwhile is noticed next time
        shape = (len(self._members), *plan.sample_shape)
        dtype = getattr(torch, plan.dtype)
        self._tensors = {LATENTS: torch.empty(shape, dtype=dtype)}
        if plan.flips:
            self._tensors[FLIPS] = torch.empty(shape, dtype=dtype)
        if plan.images.info.num_classes is not None:
            self._tensors[LABELS] = torch.tensor([plan.images.labels[index] for index in self._members])
        self._statistics = ChannelStatistics.empty(plan.autoencoder.latent_channels)

    def add(self, images: Tensor) -> bool:
        """Encode the next images, `[B, ...]`; returns whether the shard is full.

        Raises:
            ValueError: a latent is not finite in the dtype of storage.
        """
        end = self._filled + len(images)
        for key, batch in ((LATENTS, images), (FLIPS, images.flip(-1))):
            if key in self._tensors:
                stored = self._encode(batch, flipped=key == FLIPS).to(self._tensors[key].dtype)
                self._check(stored)
                self._tensors[key][self._filled : end] = stored
                self._count(stored.float())
        self._filled = end
        return end == len(self._members)

    def write(self) -> Record:
        """Write the shard, then its record, each in one step."""
        return write_shard(
            self._plan,
            self._number,
            self._tensors,
            len(self._members),
            stamp=self._stamp,
            statistics=self._statistics.to_plain(),
        )

    def _encode(self, images: Tensor, *, flipped: bool) -> Tensor:
        encoded = self._plan.autoencoder.encode(images).cpu()
        if self._plan.stored != "samples":
            return encoded
        # A generator for each image: what is drawn depends neither on the size of a batch nor on the number of ranks.
        first = self._members[self._filled]
        return torch.stack(
            [
                draw(
                    one,
                    "log_variance",
                    seeded_generator(self._plan.seed, Purpose.ENCODING, first + offset, int(flipped)),
                )
                for offset, one in enumerate(encoded)
            ]
        )

    def _check(self, stored: Tensor) -> None:
        finite = torch.isfinite(stored.flatten(1)).all(dim=1)
        if not finite.all():
            path = self._plan.images.paths[self._members[self._filled + int((~finite).nonzero()[0])]]
            raise ValueError(
                f"the latents of {path} are not finite in {self._plan.dtype}: store bfloat16 or float32, or compute in "
                "float32"
            )

    def _count(self, stored: Tensor) -> None:
        if self._plan.moments == "none":
            part = ChannelStatistics.of(stored)
        else:
            part = ChannelStatistics.of(*split_moments(stored, self._plan.moments))
        self._statistics = self._statistics.merged(part)
