"""What tells one data set from another, so that a run is not continued on other data by mistake."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcgm.data.protocols import Fingerprinted

CONTENT_SAMPLES = 64
CONTENT_NUMBERS = 2**22
FILE_SIZES = 10_000
NAMES_IN_MESSAGE = 5
HASHED = {
    "labels": "labels of some samples differ",
    "files": "names of some files differ",
    "sizes": "sizes of some files differ",
    "content": "content of some samples differs",
    "shapes": "shapes of some samples differ",
    "null": "conditions of the empty caption differ",
}
"""What differs where only hashes are known."""


def data_fingerprint(dataset: Any) -> dict[str, Any]:
    """Describe a data set in plain JSON values that are equal for equal data, wherever its files lie.

    It is cheap: names and labels are compared in full, the content of some samples only. So it finds renamed classes,
    another order, other counts and most replacements, but it can miss a few changed samples of a large data set.

    Args:
        dataset: with an ``info``. Its method ``fingerprint`` (:class:`~rcgm.data.protocols.Fingerprinted`) is used if
            there is one; otherwise the content is that of evenly spaced samples ``dataset[i]``.

    Returns:
        ``samples`` (their number), ``shape``, ``classes`` (their number or None), ``class_names``, ``labels`` (SHA-256
        of all labels, or None), ``normalisation``, and the entries of the data set's own fingerprint or ``content``
        (SHA-256 of some samples).
    """
    info = dataset.info
    labels = getattr(dataset, "labels", None) if info.num_classes is not None else None
    entries = {
        "samples": len(dataset),
        "shape": list(info.shape),
        "classes": info.num_classes,
        "class_names": list(info.class_names),
        "labels": None if labels is None else hash_of([_integers(labels)]),
        "normalisation": None if info.normalisation is None else asdict(info.normalisation),
    }
    own = dataset.fingerprint() if isinstance(dataset, Fingerprinted) else {"content": _content(dataset)}
    # Through JSON, so that it equals what is read back from a file (tuples become lists).
    return json.loads(json.dumps({**entries, **own}))


def fingerprint_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """How two results of :func:`data_fingerprint` differ: one short clause an entry, none where they are equal.

    Entries that only one of them has are not compared, so that fingerprints of older versions can be used.
    """
    return [_difference(name, saved[name], current[name]) for name in saved if _differs(name, saved, current)]


def hash_of(pieces: Iterable[bytes | memoryview]) -> str:
    """SHA-256 of the pieces, each with its length, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def hash_of_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """SHA-256 of the numbers of CPU tensors that numpy has a dtype for."""
    return hash_of(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in tensors)


def hash_of_files(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Entries for a data set of files: ``files`` (names below ``root``), ``sizes`` and ``content`` of some of them."""
    names = [Path(os.path.relpath(path, root)).as_posix() for path in paths]
    sizes = [os.stat(paths[index]).st_size for index in evenly_spaced(len(paths), FILE_SIZES)]
    read = (Path(paths[index]).read_bytes() for index in evenly_spaced(len(paths), CONTENT_SAMPLES))
    return {
        "files": hash_of(name.encode("utf-8", "surrogateescape") for name in names),
        "sizes": hash_of([json.dumps(sizes).encode()]),
        "content": hash_of(read),
    }


def content_indices(length: int, shape: Sequence[int]) -> list[int]:
    """Evenly spaced indices of samples of this shape, as many as :func:`data_fingerprint` reads of an array."""
    numbers = max(1, int(np.prod(shape)))
    return evenly_spaced(length, max(CONTENT_SAMPLES, CONTENT_NUMBERS // numbers))


def evenly_spaced(length: int, count: int) -> list[int]:
    """At most ``count`` different indices in ``[0, length)``, the first one included."""
    chosen = min(length, count)
    return [index * length // chosen for index in range(chosen)]


def _content(dataset: Any) -> str:
    indices = evenly_spaced(len(dataset), CONTENT_SAMPLES)
    return hash_of_tensors(dataset[index][0].float() for index in indices)


def _integers(labels: Any) -> bytes:
    return np.ascontiguousarray(torch.as_tensor(labels, dtype=torch.int64).numpy(), dtype="<i8").tobytes()


def _differs(name: str, saved: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    return name in current and saved[name] != current[name]


def _difference(name: str, saved: Any, current: Any) -> str:
    if name == "class_names":
        lost, new = ([item for item in one if item not in other] for one, other in ((saved, current), (current, saved)))
        if not lost and not new:
            return "class_names are in another order"
        return f"class_names lack {_some(lost)} and hold {_some(new)} instead"
    return HASHED.get(name, f"{name} was {saved} and is {current}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_IN_MESSAGE} more" if len(names) > NAMES_IN_MESSAGE else ""
    return f"{names[:NAMES_IN_MESSAGE]}{more}"
