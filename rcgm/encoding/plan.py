"""What is to be encoded, how, and into which shards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from rcgm.checks import one_of, whole_number
from rcgm.data import ImageFolder
from rcgm.data.image_files import WHITE
from rcgm.data.latents.manifest import SHARD_STEM
from rcgm.data.latents.moments import Moments
from rcgm.encoding.record import hash_of_json
from rcgm.models.autoencoders import Autoencoder

Stored = Literal["moments", "samples"]
StorageDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class Plan:
    """A folder of images to become shards of latents.

    Args:
        images: with `channels` and `size` for the autoencoder.
        output: folder of the shards.
        autoencoder: loaded.
        size: of the images.
        stored: "moments": means and log variances, drawn from in training; "samples": one draw from them for an
            image. None: moments. Not for an autoencoder that encodes to latents, which are what is stored then.
        flips: whether the mirrored images are encoded too.
        dtype: of the stored numbers.
        shard_size: images a shard; the last one has fewer.
        seed: of the draws.

    Raises:
        TypeError: a size or the seed is no integer.
        ValueError: an argument outside of the above.
    """

    images: ImageFolder
    output: Path
    autoencoder: Autoencoder
    size: int
    stored: Stored | None = None
    flips: bool = True
    dtype: StorageDtype = "float32"
    shard_size: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("shard_size", self.shard_size, 1)
        whole_number("seed", self.seed, 0)
        if self.stored is not None and self.stored not in get_args(Stored):
            raise ValueError(f"stored must be one of {', '.join(get_args(Stored))}, got {self.stored!r}")
        if self.stored is not None and not self.autoencoder.has_moments:
            raise ValueError(
                f"stored must be left out for {self.autoencoder.kind}, which encodes to latents without moments, got "
                f"{self.stored!r}"
            )
        one_of("dtype", self.dtype, get_args(StorageDtype))
        if self.size % self.autoencoder.factor:
            raise ValueError(
                f"size must be a multiple of {self.autoencoder.factor}, the factor of the autoencoder, got {self.size}"
            )

    @property
    def stem(self) -> str:
        """See `ShardPlan`."""
        return SHARD_STEM

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the contents of the shards follow from."""
        settings = {
            "autoencoder": {
                "class": self.autoencoder.kind,
                "config": self.autoencoder.config,
                "weights_sha256": self.autoencoder.weights_hash(),
            },
            "image_size": self.size,
            "moments": self.moments,
            "flips": self.flips,
            "dtype": self.dtype,
            "seed": self.seed if self._draws else None,
            "shard_size": self.shard_size,
            "images_sha256": hash_of_json(self._listing()),
        }
        if self.images.background != WHITE:
            settings["background"] = list(self.images.background)
        return settings

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the settings: shards of equal ones are interchangeable."""
        return hash_of_json(self.settings)

    @property
    def moments(self) -> Moments:
        """How the latents are stored, as readers call it."""
        return "log_variance" if self.autoencoder.has_moments and not self._draws else "none"

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Of what is stored of an image."""
        channels = self.autoencoder.latent_channels * (2 if self.moments != "none" else 1)
        side = self.size // self.autoencoder.factor
        return channels, side, side

    @property
    def shards(self) -> int:
        """Their number."""
        return -(-len(self.images) // self.shard_size)

    def members(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.images)))

    def stamp(self, shard: int) -> str:
        """A hash of the sizes and times of change of a shard's images: another one where some were replaced."""
        status = (os.stat(self.images.paths[index]) for index in self.members(shard))
        return hash_of_json([[one.st_size, one.st_mtime_ns] for one in status])

    @property
    def _draws(self) -> bool:
        return self.stored == "samples"

    def _listing(self) -> list[Any]:
        # Relative to the folder, so that it may move between two calls.
        names = (Path(path).relative_to(self.images.root).as_posix() for path in self.images.paths)
        return [[name, label] for name, label in zip(names, self.images.labels, strict=True)]
