"""The numbers of a run on disk: ``metrics.jsonl``, ``evaluations.json`` and TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rcgm.files import write_atomically
from rcgm.runs.checkpoint_state import CheckpointError

__all__ = ["EvaluationsFile", "MetricsFile", "TensorBoard", "read_metrics"]


def read_metrics(path: Path, *, up_to_step: int | None = None) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl`` up to a step. A last line that a crash cut short is left out.

    Raises:
        CheckpointError: the file is not UTF-8, or any other line is no JSON object with a step.
    """
    if not path.is_file():
        return []
    text = _text_of(path)
    complete = text[: text.rfind("\n") + 1].split("\n")[:-1]
    rows = []
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CheckpointError(f"'{path}', line {number}, is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise CheckpointError(f"'{path}', line {number}, is no object with a 'step'")
        rows.append(row)
    return [row for row in rows if up_to_step is None or row["step"] <= up_to_step]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"'{path}' is not UTF-8: {error}") from error


class MetricsFile:
    """Rows of numbers, one JSON object per line, appended and flushed one by one.

    Args:
        path: of the file.
        done: steps of the checkpoint that the run goes on from. Rows of later steps, from a part of the run that is now
            repeated, are dropped.
        enabled: False keeps the rows and writes nothing.
    """

    def __init__(self, path: Path, *, done: int = 0, enabled: bool = True) -> None:
        self.rows = read_metrics(path, up_to_step=done)
        self._stream: TextIO | None = None
        if enabled:
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows))
            self._stream = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it needs a "step"."""
        self.rows.append(dict(row))
        if self._stream is not None:
            self._stream.write(json.dumps(dict(row)) + "\n")
            self._stream.flush()

    def sync(self) -> None:
        """Flush to the disk: rows up to a checkpoint must survive whatever the checkpoint survives."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class EvaluationsFile:
    """The evaluations of a run by step, one JSON file, rewritten as a whole.

    Args:
        path: of the file.
        done, enabled: as for :class:`MetricsFile`.
    """

    def __init__(self, path: Path, *, done: int = 0, enabled: bool = True) -> None:
        self._path = path
        self._enabled = enabled
        self._by_step: dict[str, Any] = {}
        if path.is_file():
            try:
                earlier = json.loads(_text_of(path))
            except json.JSONDecodeError as error:
                raise CheckpointError(f"'{path}' is not JSON: {error}") from error
            if not isinstance(earlier, dict) or not all(step.isdecimal() for step in earlier):
                raise CheckpointError(f"'{path}' is no object of evaluations by step")
            self._by_step = {step: report for step, report in earlier.items() if int(step) <= done}

    def set(self, step: int, report: Mapping[str, Mapping[str, float]]) -> None:
        """Note the report of a step, in place of an earlier one of that step."""
        self._by_step[str(step)] = dict(report)
        if self._enabled:
            write_atomically(self._path, json.dumps(self._by_step, indent=2) + "\n")


class TensorBoard:
    """Scalars and pictures for TensorBoard; nothing if not enabled.

    Args:
        folder: where the event files go.
        done: as for :class:`MetricsFile`.
        enabled: False writes nothing and does not import tensorboard.
    """

    def __init__(self, folder: Path, *, done: int = 0, enabled: bool = True) -> None:
        self._writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def scalars(self, row: Mapping[str, float | None], prefix: str) -> None:
        """The numbers in ``row`` at its "step", under names that begin with ``prefix``."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{prefix}/{name}", value, row["step"])

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 ``[H, W, 3]``."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
