"""Which layout a folder of latents has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rcgm.checks import one_of
from rcgm.data.latents.manifest import STATISTICS
from rcgm.data.latents.numpy_files import LABEL_FILE, NumpyFiles
from rcgm.data.latents.shards import LATENTS, numpy_arrays, safetensors_shards
from rcgm.data.latents.store import Store
from rcgm.data.latents.tars import Tars

Layout = Literal["auto", "safetensors", "webdataset", "numpy"]


def open_store(folder: Path, layout: Layout, index_folder: Path | None) -> Store:
    """The latents of a folder.

    Args:
        folder: holds the files of one layout.
        layout: which, or "auto" for the one whose files are there.
        index_folder: where indices of tar files are kept; None: beside each.

    Raises:
        ValueError: no such folder or layout; no files of the layout, or with "auto" of more than one; or what opening
            them raises.
    """
    one_of("layout", layout, get_args(Layout))
    if not folder.is_dir():
        raise ValueError(f"path must be a folder that exists, got {str(folder)!r}")
    shards = [path for path in sorted(folder.glob("*.safetensors")) if path.stem != STATISTICS]
    shards = [path for path in shards if not path.name.startswith(".")]
    numpy = [folder / name for name in (f"{LATENTS}.npy", LABEL_FILE) if (folder / name).is_file()]
    tars = [path for path in sorted(folder.glob("*.tar")) if not path.name.startswith(".")]
    found = {"safetensors": shards, "webdataset": tars, "numpy": numpy}
    present = [name for name, paths in found.items() if paths]
    if layout == "auto" and len(present) == 1:
        layout = present[0]  # type: ignore[assignment]
    if layout not in present:
        raise ValueError(
            f"path must hold *.safetensors, *.tar, {LATENTS}.npy, or {LABEL_FILE} with .npy files, and layout name one "
            f"where there are several, got {str(folder)!r} with {present or 'no latents'} and layout {layout!r}"
        )
    if layout == "safetensors":
        return safetensors_shards(shards)
    if layout == "webdataset":
        return Tars(tars, index_folder)
    return numpy_arrays(folder) if numpy[0].suffix == ".npy" else NumpyFiles(folder)
