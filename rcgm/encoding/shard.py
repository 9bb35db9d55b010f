"""One shard of latents, and the record that tells that it is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcgm.data.latents.moments import draw, split_moments
from rcgm.data.latents.shards import FLIPS, LABELS, LATENTS
from rcgm.encoding.plan import Plan
from rcgm.encoding.statistics import ChannelStatistics
from rcgm.files import replaced_atomically, sha256_of, write_atomically
from rcgm.seeds import Purpose, seeded_generator


@dataclass(frozen=True)
class Record:
    """What is known of a shard that has been written.

    Attributes:
        file: its name.
        samples: how many it holds.
        bytes, sha256: of the file.
        settings: fingerprint of the plan that it belongs to.
        statistics: of its latents, flipped ones included, by channel; see `ChannelStatistics.to_plain`.
        images: `Plan.stamp` of its images; None in records of earlier versions.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    settings: str
    statistics: dict
    images: str | None = None


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
        path = self._plan.path(self._number)
        with replaced_atomically(path) as temporary:
            save_file(self._tensors, temporary, {"settings": self._plan.fingerprint})
            digest = sha256_of(temporary)
        record = Record(
            path.name,
            len(self._members),
            path.stat().st_size,
            digest,
            self._plan.fingerprint,
            self._statistics.to_plain(),
            self._stamp,
        )
        write_atomically(path.with_suffix(".json"), json.dumps(asdict(record)) + "\n")
        return record

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


def read_record(plan: Plan, number: int, *, verify: bool) -> Record | None:
    """The record of a shard, or None where the shard is still to be written, or to be written again.

    Args:
        plan: that it belongs to.
        number: of the shard.
        verify: whether to read the shard and compare its hash; one that differs is still to be written.

    Raises:
        ValueError: the shard was written with other settings, which is not overwritten.
    """
    path = plan.path(number)
    try:
        record = Record(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if record.settings != plan.fingerprint:
        raise ValueError(
            f"{path} was encoded from other images or with other settings: choose another output folder, or encode "
            "all again with --force"
        )
    if record.images is not None and record.images != plan.stamp(number):
        return None
    if not path.is_file() or path.stat().st_size != record.bytes:
        return None
    return None if verify and sha256_of(path) != record.sha256 else record
