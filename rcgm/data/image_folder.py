"""Image files in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from rcgm.checks import whole_number
from rcgm.data.fingerprint import hash_of_files
from rcgm.data.image_files import WHITE, Colour, read_image
from rcgm.data.image_search import FoundImages, find_images
from rcgm.data.info import DataInfo

NAMES_IN_MESSAGE = 10

Resize = Literal["lanczos", "adm"]
Broken = Literal["error", "leave_out"]


class ImageFolder(Dataset):
    """Images below a folder, cropped to their central square and resized.

    Where the folder holds sub-folders with images, each is a class, numbered in the order of their names; otherwise
    the images carry no label. Images are searched at any depth, through links too, each folder once; `notes` says what
    was passed over. `dataset[i]` is `(float32 [channels, size, size] in [-1, 1], label)`, the label being -1 without
    classes.

    Files may come from anywhere: only BMP, JPEG, PNG, PPM, TIFF and WebP are decoded, whatever a file is called.

    Args:
        root: the folder.
        size: height and width to resize to.
        channels: 3 (RGB) or 1 (grey).
        resize: "lanczos": with that filter, in one go. "adm": as in ADM (Dhariwal and Nichol, arXiv 2105.05233), DiT
            and those that follow them: halved by averaging while twice as large, then a bicubic filter.
        flip: let the batch stream mirror each image left to right with probability 1/2; `dataset[i]` never does.
        verify: decode every file now, and raise one error that names all broken ones. Otherwise a broken file raises
            when it is read first.
        broken: "error", or "leave_out": decode every file now and leave out those that cannot be decoded, which
            `notes` counts.
        background: red, green and blue, 0 to 255, that transparent images are put on.

    Raises:
        TypeError: size or channels is no integer.
        ValueError: size, channels, resize, broken or background out of range; root is no folder, holds no image, holds
            a sub-folder without images, or holds images both in sub-folders and beside them; a file cannot be read, or
            has more than 8 bits a channel.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: int,
        channels: int = 3,
        flip: bool = False,
        verify: bool = False,
        resize: Resize = "lanczos",
        broken: Broken = "error",
        background: Colour = WHITE,
    ) -> None:
        self._size = whole_number("size", size, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {channels!r}")
        self._mode = "RGB" if channels == 3 else "L"
        for name, value, known in (("resize", resize, get_args(Resize)), ("broken", broken, get_args(Broken))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self._resize = resize
        self.background = _colour(background)
        self._flip = flip
        self.root = Path(root)
        found = find_images(self.root)
        self.paths, self.labels = found.paths, found.labels
        left_out = self._without_broken(found, broken) if verify or broken == "leave_out" else []
        passed = found.passed_over.notes()
        self.notes = left_out + ([f"passed over {', '.join(passed)}"] if passed else [])
        """What a user should know of the images that were found."""
        self.info = DataInfo(
            shape=(channels, self._size, self._size),
            num_classes=len(found.class_names) or None,
            kind="images",
            class_names=found.class_names,
            value_range=(-1.0, 1.0),
        )

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
            image = read_image(path, self._mode, self.background)
        except ValueError as error:
            raise ValueError(f"{error}: repair or remove it, or set data.broken=leave_out") from error
        if self._resize == "adm":
            return _fit_as_adm(image, self._size)
        return ImageOps.fit(image, (self._size, self._size), Image.Resampling.LANCZOS)

    def _without_broken(self, found: FoundImages, broken: Broken) -> list[str]:
        """Decode every file; drop those that are broken and return a note of them, or raise."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            problems = list(pool.map(self._problem, found.paths))
        named = [problem for problem in problems if problem is not None]
        if not named:
            return []
        more = [] if len(named) <= NAMES_IN_MESSAGE else [f"... and {len(named) - NAMES_IN_MESSAGE} more"]
        listed = "\n  ".join(named[:NAMES_IN_MESSAGE] + more)
        if broken == "error":
            raise ValueError(
                f"{len(named)} of {len(found.paths)} images are broken (broken: leave_out goes on without them):\n"
                f"  {listed}"
            )
        whole = [index for index, problem in enumerate(problems) if problem is None]
        self.paths, self.labels = ([one[index] for index in whole] for one in (found.paths, found.labels))
        kept = set(self.labels)
        lost = [name for label, name in enumerate(found.class_names) if label not in kept]
        if lost or not whole:
            what = f"classes {lost} have" if lost else f"{str(self.root)!r} has"
            raise ValueError(f"{what} no image that can be decoded: repair or remove them\n  {listed}")
        return [f"left out {len(named):,} broken images:\n  {listed}"]

    def _problem(self, path: str) -> str | None:
        try:
            read_image(path, self._mode, self.background)
        except ValueError as error:
            return str(error)
        return None


def _colour(background: Sequence[int]) -> Colour:
    colour = tuple(whole_number("each number in background", value, 0) for value in background)
    if len(colour) != 3 or max(colour) > 255:
        raise ValueError(f"background must be red, green and blue, each 0 to 255, got {background!r}")
    return colour


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
