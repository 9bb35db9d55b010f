"""Images with captions: from folders, tar files and parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rcgm.checks import one_of
from rcgm.encoding.sources.folder import open_folder
from rcgm.encoding.sources.pair import BadPairError, PairSource, Reason
from rcgm.encoding.sources.parquet import ParquetPairs
from rcgm.encoding.sources.tars import TarPairs

__all__ = ["BadPairError", "PairSource", "Reason", "SourceKind", "open_source"]

SourceKind = Literal["auto", "folder", "webdataset", "parquet"]


def open_source(
    path: Path, kind: SourceKind = "auto", *, image_key: str | None = None, caption_key: str | None = None
) -> PairSource:
    """Images with captions below a folder, or in one tar or parquet file.

    Args:
        path: of the folder or the file.
        kind: what is read; "auto" for tar or parquet files where the folder holds some, else images.
        image_key, caption_key: key of the image's name and of the caption in ``metadata.jsonl``, column of both in
            parquet, key of the caption in the ``.json`` of tar files; None for the usual ones.

    Raises:
        ModuleNotFoundError: parquet without pyarrow.
        ValueError: no such path; files of several kinds, of none, or damaged ones.
    """
    one_of("kind", kind, get_args(SourceKind))
    if not path.exists():
        raise ValueError(f"source must be a folder or a file that exists, got {str(path)!r}")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if not file.name.startswith("."))
    found = {
        "webdataset": [file for file in files if file.suffix == ".tar"],
        "parquet": [file for file in files if file.suffix == ".parquet"],
    }
    if kind == "auto":
        present = [name for name, matching in found.items() if matching]
        if len(present) > 1:
            raise ValueError(f"kind must name one of {', '.join(present)}, got files of both in {str(path)!r}")
        kind = present[0] if present else "folder"  # type: ignore[assignment]
    if kind == "folder":
        if not path.is_dir():
            raise ValueError(f"source must be a folder, a .tar or a .parquet file, got {str(path)!r}")
        return open_folder(path, image_key, caption_key)
    if not found[kind]:
        raise ValueError(
            f"source must hold files that end in {'.tar' if kind == 'webdataset' else '.parquet'}, got none"
        )
    if kind == "parquet":
        return ParquetPairs(found[kind], image_key, caption_key)
    if image_key is not None:
        raise ValueError(f"image_key must be left out for tar files, got {image_key!r}")
    return TarPairs(found[kind], caption_key)
