"""The numbers and pictures of a run for Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcgm.config import WandbConfig
from rcgm.files import write_atomically

__all__ = ["WeightsAndBiases"]

IDENTIFIER = "wandb_id.txt"


class WeightsAndBiases:
    """Scalars and pictures for Weights & Biases; without settings nothing.

    A run folder is one run there, also after a resume: its identifier is kept in ``wandb_id.txt``.

    Args:
        settings: None writes nothing and does not import wandb.
        folder: of the run.
        config: what is recorded as the configuration, plain values.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, settings: WandbConfig | None, folder: Path, config: Mapping[str, Any]) -> None:
        self._run: Any = None
        if settings is None:
            return
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "logging.wandb needs the package wandb: pip install 'rcgm[wandb]'", name="wandb"
            ) from error
        self._wandb = wandb
        self._run = wandb.init(
            project=settings.project,
            name=settings.name or folder.resolve().name,
            mode=settings.mode,
            dir=str(folder),
            id=_identifier(folder / IDENTIFIER),
            resume="allow",
            config=dict(config),
        )

    def scalars(self, row: Mapping[str, float | None], prefix: str) -> None:
        """The numbers in ``row`` at its "step", under names that begin with ``prefix``."""
        if self._run is not None:
            values = {f"{prefix}/{name}": value for name, value in row.items() if name != "step" and value is not None}
            self._run.log(values, step=row["step"])

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 ``[H, W, 3]``."""
        if self._run is not None:
            self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _identifier(path: Path) -> str:
    if not path.is_file():
        write_atomically(path, secrets.token_hex(8) + "\n")
    return path.read_text(encoding="utf-8").strip()
