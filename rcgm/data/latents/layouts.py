"""Which layout a folder of latents has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

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
    if layout not in get_args(Layout):
        raise ValueError(f"layout is {layout!r}; it needs one of {list(get_args(Layout))}")
    if not folder.is_dir():
        raise ValueError(f"path is {str(folder)!r}; it needs a folder that exists")
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
            f"layout is {layout!r} and path {str(folder)!r} holds {present or 'no latents'}; it needs *.safetensors, "
            f"*.tar, {LATENTS}.npy, or {LABEL_FILE} with .npy files, and the layout's name where there are several"
        )
    if layout == "safetensors":
        return safetensors_shards(shards)
    if layout == "webdataset":
        return Tars(tars, index_folder)
    return numpy_arrays(folder) if numpy[0].suffix == ".npy" else NumpyFiles(folder)
