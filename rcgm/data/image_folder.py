"""Image files in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from rcgm.data.checks import require_int
from rcgm.data.fingerprint import hash_of_files
from rcgm.data.info import DataInfo

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
NAMES_IN_MESSAGE = 10

Resize = Literal["lanczos", "adm"]


class ImageFolder(Dataset):
    """Images below a folder, cropped to their central square and resized.

    Where the folder holds sub-folders with images, each is a class, numbered in the order of their names; otherwise
    the images carry no label. Images are searched at any depth; names that begin with a dot are passed over.
    `dataset[i]` is `(float32 [channels, size, size] in [-1, 1], label)`, the label being -1 without classes.

    Args:
        root: the folder.
        size: height and width to resize to.
        channels: 3 (RGB) or 1 (grey).
        resize: "lanczos": with that filter, in one go. "adm": as in ADM (Dhariwal and Nichol, arXiv 2105.05233), DiT
            and those that follow them: halved by averaging while twice as large, then a bicubic filter.
        flip: let the batch stream mirror each image left to right with probability 1/2; `dataset[i]` never does.
        verify: decode every file now, and raise one error that names all broken ones. Otherwise a broken file raises
            when it is read first.

    Raises:
        TypeError: size or channels is no integer.
        ValueError: size, channels or resize out of range; root is no folder, holds no image, holds a sub-folder without
            images, or holds images both in sub-folders and beside them; a file cannot be read, or has more than 8 bits
            a channel.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: int,
        channels: int = 3,
        flip: bool = False,
        verify: bool = False,
        resize: Resize = "lanczos",
    ) -> None:
        self._size = require_int("size", size, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels!r}; it needs 3 (RGB) or 1 (grey)")
        self._mode = "RGB" if channels == 3 else "L"
        if resize not in get_args(Resize):
            raise ValueError(f"resize is {resize!r}; it needs one of {list(get_args(Resize))}")
        self._resize = resize
        self._flip = flip
        self.root = Path(root)
        self.paths, self.labels, names = _find_images(self.root)
        self.info = DataInfo(
            shape=(channels, self._size, self._size),
            num_classes=len(names) or None,
            kind="images",
            class_names=names,
            value_range=(-1.0, 1.0),
        )
        if verify:
            self._verify()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return _to_tensor(self._read(self.paths[index])), self.labels[index]

    def augmented(self, index: int, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        """As `dataset[index]`, mirrored with probability 1/2 where `flip` is on."""
        image, label = self[index]
        if self._flip and torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return image, label

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: names of all files, sizes and bytes of some."""
        return hash_of_files(self.root, self.paths)

    def _read(self, path: str) -> Image.Image:
        try:
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    # Pillow's conversion of these to 8 bits clips every value above 255 to white, without a word.
                    raise ValueError(f"its pixel format is {file.mode!r}; 8 bits a channel are needed")
                image = ImageOps.exif_transpose(file).convert(self._mode)
        # Decoders raise whatever they stumble over (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
        except Exception as error:
            raise ValueError(f"cannot read the image {path}: {error}") from error
        if self._resize == "adm":
            return _fit_as_adm(image, self._size)
        return ImageOps.fit(image, (self._size, self._size), Image.Resampling.LANCZOS)

    def _verify(self) -> None:
        broken = []
        for path in self.paths:
            try:
                self._read(path)
            except ValueError as error:
                broken.append(str(error))
        if broken:
            more = [] if len(broken) <= NAMES_IN_MESSAGE else [f"... and {len(broken) - NAMES_IN_MESSAGE} more"]
            listed = "\n  ".join(broken[:NAMES_IN_MESSAGE] + more)
            raise ValueError(f"{len(broken)} of {len(self.paths)} images are broken:\n  {listed}")


def _fit_as_adm(image: Image.Image, size: int) -> Image.Image:
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).div_(127.5).sub_(1.0)
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _find_images(root: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Paths, one label a path (-1 without classes), and the names of the classes."""
    if not root.is_dir():
        raise ValueError(f"root is {str(root)!r}; it needs a folder that exists")
    entries = sorted(root.iterdir())
    loose = [str(path) for path in entries if _has_image_name(path.name) and path.is_file()]
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    found = {folder.name: _images_below(folder) for folder in folders}
    if not any(found.values()):
        if not loose:
            raise ValueError(f"root is {str(root)!r}, which holds no image ({', '.join(IMAGE_SUFFIXES)})")
        return loose, [-1] * len(loose), ()
    if loose:
        raise ValueError(
            f"root is {str(root)!r}, which holds images both in sub-folders and beside them ({loose[0]}); "
            "either every image has a class or none has"
        )
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise ValueError(f"root is {str(root)!r}, whose sub-folders {empty} hold no image; remove them or fill them")
    labelled = [(path, label) for label, paths in enumerate(found.values()) for path in paths]
    return [path for path, _ in labelled], [label for _, label in labelled], tuple(found)


def _images_below(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(str(Path(parent, name)) for name in files if _has_image_name(name))
    # os.walk lists in the order of the file system; a batch has to be the same on every machine.
    return sorted(found)


def _has_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
