"""The embedding of the interval as a file of its own, beside weights in the layout of diffusers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

__all__ = ["INTERVAL_FILE", "IntervalHeader", "read_interval", "write_interval"]

INTERVAL_FILE = "interval_embedder.safetensors"
VERSION = "1"


@dataclass(frozen=True)
class IntervalHeader:
    """What the header of the file says, in strings.

    Args:
        family: key of ``rcgm.networks.NETWORKS``.
        time_scale: what ``t - r`` is multiplied by before the sinusoids.
        sampler: key of ``rcgm.sampling.SAMPLERS`` that the network was trained for.
        guidance: scale that a network distilled with guidance was told in training; empty for others.
        format_version: of this layout.
    """

    family: str
    time_scale: str
    sampler: str
    guidance: str = ""
    format_version: str = VERSION


def write_interval(folder: Path, tensors: Mapping[str, Tensor], header: IntervalHeader) -> None:
    """Write the weights of an ``IntervalEmbedding`` to ``folder``."""
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / INTERVAL_FILE, {"format": "pt", **asdict(header)})


def read_interval(folder: str | os.PathLike[str]) -> tuple[IntervalHeader, dict[str, Tensor]]:
    """The header and the weights that :func:`write_interval` has written.

    Raises:
        ValueError: there is no such file, or it cannot be read, or is of another version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / INTERVAL_FILE
    if not path.is_file():
        raise ValueError(
            f"folder must hold {INTERVAL_FILE}, got '{folder}' without: an export with interval none, or of a network "
            "with an embedding of r of its own, is used as any model of its class"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"folder: cannot read '{path}': {error}") from error
    if found.get("format_version") != VERSION:
        raise ValueError(
            f"folder must hold {INTERVAL_FILE} of format version {VERSION}, got {found.get('format_version')!r}: "
            "install the version of rcgm that wrote it"
        )
    try:
        return IntervalHeader(**{name: value for name, value in found.items() if name != "format"}), tensors
    except TypeError as error:
        raise ValueError(f"folder: the header of '{path}' is damaged: {error}") from error
