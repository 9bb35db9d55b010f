"""Folders of samples as judges of text-to-image read them: plain, GenEval's and DPG-Bench's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcgm.checks import one_of, whole_number
from rcgm.files import write_atomically
from rcgm.runs.prompt_files import Prompt

__all__ = ["LAYOUTS", "SampleFolder"]

LAYOUTS = ("flat", "geneval", "dpg")
LIST = "prompts.jsonl"
COLUMNS = 2
"""Samples in a row of a picture for DPG-Bench, which has up to as many rows."""


@dataclass(frozen=True)
class SampleFolder:
    """A folder that is filled with samples of prompts, and filled up where it was begun with the same settings.

    ``flat`` has ``00000.png``, ..., the samples of the first prompt first, and ``prompts.jsonl``, which names the
    prompt of each. ``geneval`` has ``00000/metadata.jsonl`` and ``00000/samples/0000.png``, a folder a prompt. ``dpg``
    has ``NAME.png``, a picture a prompt with two samples a row.

    Args:
        root: the folder. Its settings lie beside it, as ``root.settings.json``: DPG-Bench reads whatever is inside.
        layout: of ``LAYOUTS``.
        prompts: for ``geneval`` from a file of metadata; for ``dpg`` with different names.
        each: samples of a prompt; up to 4 for ``dpg``.
        settings: what the samples follow from, in plain values.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    root: Path
    layout: str
    prompts: Sequence[Prompt]
    each: int
    settings: dict[str, Any]
    _waiting: dict[int, list[Image.Image]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        one_of("layout", self.layout, LAYOUTS)
        whole_number("each", self.each)
        if self.layout == "geneval" and not all(prompt.line for prompt in self.prompts):
            raise ValueError("prompts must come from a .jsonl file of GenEval's metadata for the layout geneval")
        if self.layout == "dpg":
            _check_names([prompt.name for prompt in self.prompts])
            if self.each > COLUMNS**2:
                raise ValueError(f"each must be at most {COLUMNS**2} for the layout dpg, got {self.each}")

    def check(self, *, force: bool = False) -> None:
        """Raise unless the folder can be filled: it is new, or was begun with the same settings.

        Args:
            force: whether what was made with others may be replaced.

        Raises:
            ValueError: it cannot.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"output must be a folder, got the file '{self.root}'")
        if force:
            return
        known = self._known()
        if known is None:
            if self.root.is_dir() and any(self.root.iterdir()):
                raise ValueError(
                    f"output must be a new folder, or one with '{self._note.name}' beside it, got '{self.root}': name "
                    "another folder, or replace its samples by --force"
                )
            return
        wanted = self._wanted()
        differ = [name for name in wanted if known.get(name) != wanted[name]]
        if differ:
            raise ValueError(
                f"output must have been made with the same settings, got '{self.root}' with others of "
                f"{', '.join(differ)}: name another folder, or replace its samples by --force"
            )

    def begin(self) -> None:
        """Make the folder, without samples of other settings; after :meth:`check`, by one process."""
        known, wanted = self._known(), self._wanted()
        if known != wanted:
            for path in (*_files(self.root, wanted), *([] if known is None else _files(self.root, known))):
                path.unlink(missing_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        if known != wanted:
            write_atomically(self._note, json.dumps(wanted, indent=1))
        if self.layout == "flat":
            names = _pictures(wanted)
            texts = [prompt.text for prompt in self.prompts for _ in range(self.each)]
            lines = [json.dumps({"file": name, "prompt": text}) for name, text in zip(names, texts, strict=True)]
            write_atomically(self.root / LIST, "".join(f"{line}\n" for line in lines))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Which of the prompts of these numbers lack samples."""
        names = _pictures(self._wanted())
        at_once = len(names) // len(self.prompts)
        return [
            number
            for number in numbers
            if not all((self.root / name).is_file() for name in names[number * at_once : (number + 1) * at_once])
        ]

    def write(self, number: int, sample: int, image: Tensor) -> None:
        """Add a sample of the prompt ``number``; those of a prompt come in order.

        Args:
            number: of the prompt.
            sample: number among the samples of the prompt.
            image: ``[3, H, W]`` in [-1, 1].
        """
        picture = _picture(image)
        if self.layout == "dpg":
            waiting = self._waiting.setdefault(number, [])
            waiting.append(picture)
            if len(waiting) < self.each:
                return
            picture = _grid(self._waiting.pop(number))
            name = f"{self.prompts[number].name}.png"
        elif self.layout == "geneval":
            folder = f"{number:05d}"
            if sample == 0:
                write_atomically(self.root / folder / "metadata.jsonl", f"{self.prompts[number].line}\n")
            name = f"{folder}/samples/{sample:04d}.png"
        else:
            name = f"{number * self.each + sample:05d}.png"
        stream = io.BytesIO()
        picture.save(stream, "png")
        write_atomically(self.root / name, stream.getvalue())

    @property
    def _note(self) -> Path:
        root = self.root.absolute()
        return root.with_name(f"{root.name}.settings.json")

    def _wanted(self) -> dict[str, Any]:
        content = {
            **self.settings,
            "layout": self.layout,
            "each": self.each,
            "prompts": [[prompt.text, prompt.name, prompt.line] for prompt in self.prompts],
        }
        return json.loads(json.dumps(content))  # as it is read back, without tuples

    def _known(self) -> dict[str, Any] | None:
        """The settings beside the folder; None where there are none that can be read."""
        try:
            known = json.loads(self._note.read_text(encoding="utf-8"))
            _files(self.root, known)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return known


def _check_names(names: Sequence[str | None]) -> None:
    for name in names:
        if not name or Path(name).name != name or "." in name or "\\" in name:
            raise ValueError(
                f"prompts must have names that files can have, without dots, for the layout dpg, got {name!r}: give "
                "DPG-Bench's folder of prompts or its .csv file"
            )
    if len(set(names)) != len(names):
        raise ValueError("prompts must have different names for the layout dpg, got some twice")


def _pictures(settings: dict[str, Any]) -> list[str]:
    """Names of the pictures of these settings; those of a prompt follow one another."""
    count, each = len(settings["prompts"]), int(settings["each"])
    if settings["layout"] == "flat":
        return [f"{number:05d}.png" for number in range(count * each)]
    if settings["layout"] == "dpg":
        return [f"{Path(str(name)).name}.png" for _, name, _ in settings["prompts"]]
    return [f"{number:05d}/samples/{sample:04d}.png" for number in range(count) for sample in range(each)]


def _files(root: Path, settings: dict[str, Any]) -> list[Path]:
    """All files in the folder that are made with these settings."""
    names = _pictures(settings)
    if settings["layout"] == "flat":
        names.append(LIST)
    elif settings["layout"] == "geneval":
        names += [f"{number:05d}/metadata.jsonl" for number in range(len(settings["prompts"]))]
    return [root / name for name in names]


def _picture(image: Tensor) -> Image.Image:
    pixels = ((image.float() + 1.0) / 2.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _grid(pictures: list[Image.Image]) -> Image.Image:
    """Two in a row, without gaps; places that are left are black."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    whole = Image.new("RGB", (width * COLUMNS, height * -(-len(pictures) // COLUMNS)))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % COLUMNS * width, number // COLUMNS * height))
    return whole
