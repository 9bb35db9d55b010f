"""Where in a tar file the members of each sample lie, so that any of them is read without those before it."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from rcgm.data.labels import labels_from
from rcgm.data.tar_samples import Member, tar_samples
from rcgm.files import write_atomically

LATENT_SUFFIXES = ("latents.npy", "latent.npy", "moments.npy", "npy", "latents.safetensors", "safetensors")
FLIP_SUFFIXES = ("latents_flip.npy", "latent_flip.npy", "moments_flip.npy")
CLASS_SUFFIX, JSON_SUFFIX = "cls", "json"
LARGEST_LABEL = 1 << 20
"""Bytes of a member that holds a label."""
INDEX_SUFFIX = ".rcgm-index"
VERSION = "1"


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar file, in its order.

    Attributes:
        latents: int64 `[N, 2]`, offset and size of each sample's latents.
        flips: the same for those of the mirrored image, or None.
        labels: int64 `[N]`, or None.
        suffix: of the latents' member names, after the key of the sample.
    """

    latents: Tensor
    flips: Tensor | None
    labels: Tensor | None
    suffix: str


def load_index(tar: Path, folder: Path | None) -> TarIndex:
    """The index of a tar file: the one kept in `folder` (None: beside the file) if it is of this size and time of
    change and names members inside of the file, else made now, which reads the file's headers and labels, and kept.

    Raises:
        ValueError: the tar file is damaged, compressed, or holds samples of another kind; or no index can be written.
    """
    path = (tar.parent if folder is None else folder) / (tar.name + INDEX_SUFFIX)
    status = tar.stat()
    identity = {"version": VERSION, "size": str(status.st_size), "changed": str(status.st_mtime_ns)}
    index = _read(path, identity, status.st_size)
    if index is None:
        index = _build(tar)
        tensors = {"latents": index.latents, "flips": index.flips, "labels": index.labels}
        content = save(
            {name: tensor for name, tensor in tensors.items() if tensor is not None},
            {**identity, "suffix": index.suffix},
        )
        try:
            write_atomically(path, content)
        except OSError as error:
            raise ValueError(f"cannot write the index {path}: {error}; give another index_folder") from error
    return index


def _read(path: Path, identity: dict[str, str], size: int) -> TarIndex | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception:  # damaged, which safetensors tells by an exception of its own: an index can be made again
        return None
    if known is None or any(known.get(name) != value for name, value in identity.items()):
        return None
    index = TarIndex(
        tensors.get("latents", torch.empty(0)), tensors.get("flips"), tensors.get("labels"), known.get("suffix", "")
    )
    return index if _fits(index, size) else None


def _fits(index: TarIndex, size: int) -> bool:
    """Whether what an index holds can be that of a tar file of `size` bytes: it may come from anywhere."""
    number = len(index.latents)
    tables = [index.latents] if index.flips is None else [index.latents, index.flips]
    for table in tables:
        if table.dtype != torch.int64 or tuple(table.shape) != (number, 2) or not number:
            return False
        offsets, sizes = table.unbind(1)
        # Compared without a sum, which could overflow.
        if bool((offsets < tarfile.BLOCKSIZE).any() or (sizes < 1).any() or (sizes > size - offsets).any()):
            return False
    labels = index.labels
    return index.suffix in LATENT_SUFFIXES and (
        labels is None or (labels.dtype == torch.int64 and tuple(labels.shape) == (number,))
    )


def _build(tar: Path) -> TarIndex:
    samples = tar_samples(tar)
    members = list(samples.values())
    suffix = _first(LATENT_SUFFIXES, members[0])
    if suffix is None:
        raise ValueError(
            f"{tar} holds no latents: a sample needs a member whose name goes on with one of {list(LATENT_SUFFIXES)} "
            f"after its first dot, the first one has {sorted(members[0])} (pickled .pt and .pth are not read)"
        )
    flips = _first(FLIP_SUFFIXES, members[0])
    label = _first((CLASS_SUFFIX, JSON_SUFFIX), members[0])
    wanted = [name for name in (suffix, flips, label) if name is not None]
    for key, found in samples.items():
        missing = [name for name in wanted if name not in found]
        if missing:
            raise ValueError(f"sample {key.strip('/')!r} of {tar} lacks {missing}; it has {sorted(found)}")
    return TarIndex(
        torch.tensor([found[suffix] for found in members]),
        None if flips is None else torch.tensor([found[flips] for found in members]),
        None if label is None else _labels(tar, label, {key: found[label] for key, found in samples.items()}),
        suffix,
    )


def _first(wanted: tuple[str, ...], found: dict[str, Member]) -> str | None:
    return next((name for name in wanted if name in found), None)


def _labels(tar: Path, suffix: str, members: dict[str, Member]) -> Tensor:
    labels = []
    with tar.open("rb") as file:
        for key, (offset, size) in members.items():
            file.seek(offset)
            try:
                if size > LARGEST_LABEL:
                    raise ValueError(f"it has {size} bytes")
                text = file.read(size)
                label = int(text) if suffix == CLASS_SUFFIX else json.loads(text)["label"]
                if isinstance(label, bool) or not isinstance(label, int):
                    raise ValueError(f"it is {label!r}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                needed = "an integer" if suffix == CLASS_SUFFIX else 'an integer under the key "label"'
                raise ValueError(f"{key.strip('/')}.{suffix} of {tar} needs {needed}: {error!r}") from error
            labels.append(label)
    return labels_from(labels, str(tar))
