"""The weights of a run as one file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from rcgm.files import write_atomically
from rcgm.training.runs import LoadedRun

__all__ = ["export_weights"]


def export_weights(run: LoadedRun, path: str | os.PathLike[str]) -> Path:
    """Write the network of ``run`` to one safetensors file, whole, however many processes trained it.

    Tensors have the names of the network's ``state_dict``. The file's header holds ``step`` and, as JSON, ``model``,
    the section of the configuration that builds the network.

    Raises:
        ValueError: ``path`` does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the file must be called something.safetensors, got '{path}'")
    # Copies, as safetensors refuses tensors that share memory, which tied weights do.
    tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in run.network.state_dict().items()}
    header = {"format": "pt", "step": str(run.step), "model": json.dumps(run.config.model.model_dump(mode="json"))}
    return write_atomically(path, save(tensors, header))
