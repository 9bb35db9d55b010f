"""The record of a shard, which tells that it is whole, of what, and with which settings it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor

from rcgm.checks import whole_number
from rcgm.files import replaced_atomically, sha256_of, write_atomically

__all__ = [
    "Record",
    "ShardPlan",
    "hash_of_json",
    "missing_shards",
    "read_record",
    "shard_path",
    "whole_records",
    "write_shard",
]


class ShardPlan(Protocol):
    """What is to be encoded into which shards.

    Attributes:
        output: their folder.
        stem: of their files' names, before the number.
        fingerprint: a hash of the settings: shards of equal ones are interchangeable.
        shards: their number.
    """

    output: Path

    @property
    def stem(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def shards(self) -> int: ...

    def members(self, shard: int) -> Sequence[int]:
        """The numbers of what a shard is made of."""
        ...

    def stamp(self, shard: int) -> str:
        """A hash that is another one where what a shard is made of was replaced."""
        ...


@dataclass(frozen=True)
class Record:
    """What is known of a shard that has been written.

    Attributes:
        file: its name.
        samples: how many it holds.
        bytes, sha256: of the file.
        settings: fingerprint of the plan that it belongs to.
        statistics: of its latents, flipped ones included, by channel; see `ChannelStatistics.to_plain`.
        images: `ShardPlan.stamp` of its images; None in records of earlier versions.
        left_out: of pairs, those that could not be used: number in the source, reason and detail.
        cut: of pairs, numbers in the source of those whose caption was cut.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    settings: str
    statistics: dict
    images: str | None = None
    left_out: list = field(default_factory=list)
    cut: list = field(default_factory=list)


def read_record(plan: ShardPlan, number: int, *, verify: bool) -> Record | None:
    """The record of a shard, or None where the shard is still to be written, or to be written again.

    Args:
        plan: that it belongs to.
        number: of the shard.
        verify: whether to read the shard and compare its hash; one that differs is still to be written.

    Raises:
        ValueError: the shard was written with other settings, which is not overwritten.
    """
    path = shard_path(plan, number)
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


def whole_records(plan: ShardPlan, items: str) -> list[Record]:
    """The records of all shards, which are made of ``items``, such as "images".

    Raises:
        ValueError: a shard is still to be written, or to be written again.
    """
    records = [read_record(plan, number, verify=False) for number in range(plan.shards)]
    for number, record in enumerate(records):
        if record is None:
            raise ValueError(
                f"{shard_path(plan, number)} is missing or its {items} have changed: run the encode command again"
            )
    return records


def shard_path(plan: ShardPlan, number: int) -> Path:
    """The file of a shard."""
    return plan.output / f"{plan.stem}{number:05d}.safetensors"


def write_shard(
    plan: ShardPlan,
    number: int,
    tensors: dict[str, Tensor],
    samples: int,
    *,
    stamp: str,
    statistics: dict | None = None,
    left_out: Sequence[Sequence[Any]] = (),
    cut: Sequence[int] = (),
) -> Record:
    """Write a shard, then its record, each in one step.

    Args:
        plan: that it belongs to.
        number: of the shard.
        tensors: of the shard, by name.
        samples: how many it holds.
        stamp: ``plan.stamp(number)`` before anything was read: what is replaced meanwhile is noticed next time.
        statistics, left_out, cut: see :class:`Record`.
    """
    path = shard_path(plan, number)
    with replaced_atomically(path) as temporary:
        save_file(tensors, temporary, {"settings": plan.fingerprint})
        digest = sha256_of(temporary)
    size = path.stat().st_size
    record = Record(
        path.name, samples, size, digest, plan.fingerprint, statistics or {}, stamp, list(left_out), list(cut)
    )
    write_atomically(path.with_suffix(".json"), json.dumps(asdict(record)) + "\n")
    return record


def _remove_others(plan: ShardPlan, rank: int, world_size: int) -> None:
    """Remove this rank's shards beyond the last one of a plan, and all of its records."""
    for record in plan.output.glob(f"{plan.stem}*.json"):
        number = record.stem.removeprefix(plan.stem)
        if number.isdecimal() and int(number) % world_size == rank:
            record.unlink()
            if int(number) >= plan.shards:
                record.with_suffix(".safetensors").unlink(missing_ok=True)


def hash_of_json(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def missing_shards(plan: ShardPlan, rank: int, world_size: int, *, force: bool) -> list[int]:
    """Which of every ``world_size``-th shard, from ``rank`` on, are not there yet or of what has changed.

    With ``force`` all of them, and those that another plan has left in the folder are removed.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number is out of range; or a shard was written with other settings.
    """
    whole_number("world_size", world_size, 1)
    if whole_number("rank", rank, 0) >= world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    if force:
        _remove_others(plan, rank, world_size)
    return [
        number
        for number in range(rank, plan.shards, world_size)
        if force or read_record(plan, number, verify=True) is None
    ]
