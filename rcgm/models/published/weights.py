"""Reading weights of others from files, without running anything that is in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_weights"]

AVERAGES = ("ema", "model_ema", "ema_state_dict")
PLAIN = ("model", "state_dict", "module", "net")
PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: str | os.PathLike[str], weights: str = "ema") -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file of torch.

    A checkpoint may hold them under one of the usual keys (``ema``, ``model``, ``state_dict``, ...). What
    DistributedDataParallel and ``torch.compile`` put before names is taken off.

    Args:
        path: the file. One of torch is read with ``weights_only``, which builds tensors and plain values alone.
        weights: which of a checkpoint that has both: ``"ema"``, the average, or ``"student"``, the network itself.

    Returns:
        Tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds things that only running code could build, or no tensors.
    """
    path = Path(path)
    if weights not in ("ema", "student"):
        raise ValueError(f"weights must be ema or student, got {weights!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights '{path}'")
    content = _read(path)
    keys = (*AVERAGES, *PLAIN) if weights == "ema" else (*PLAIN, *AVERAGES)
    # Twice: the average may itself be a checkpoint of a wrapper, with its tensors under "module".
    for _ in range(2):
        inner = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), None)
        content = content if inner is None else inner
    tensors = {_bare(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(str, list(content)[:10])) or "nothing"
        raise ValueError(f"'{path}' holds no tensors under the usual keys ({', '.join(keys)}); it holds {held}")
    return tensors


def _read(path: Path) -> Mapping[Any, Any]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"'{path}' cannot be read: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or a hostile file makes of the reader
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"'{path}' cannot be read without running code that is in it ({first}); save its tensors with "
            "safetensors.torch.save_file where you trust it"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"'{path}' must hold a mapping of names to tensors, got {type(content).__name__}")
    return content


def _bare(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name
