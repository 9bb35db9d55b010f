"""The network of a run as one file, or as a folder in the layout of model hubs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from rcgm.files import write_atomically
from rcgm.models import save_pretrained
from rcgm.roles import Role
from rcgm.runs.loading import LoadedRun, data_info_to_plain

__all__ = ["export_run", "export_weights"]

OTHER_FILES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def export_run(run: LoadedRun, path: str | os.PathLike[str]) -> Path:
    """Write the network of ``run``: to one file if ``path`` ends in ``.safetensors``, and else to a new folder.

    The folder is one of :func:`~rcgm.models.save_pretrained`; of its training it keeps step, objective and data.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: ``path`` has the ending of a file of another format, or the run has trained adapters.
    """
    if Path(path).suffix in (".safetensors", *OTHER_FILES):
        return export_weights(run, path)
    if isinstance(run.network, Role):
        raise ValueError(f"adapters are exported to one file: give something.safetensors, got '{path}'")
    training = {
        "step": run.step,
        "objective": run.config.objective.model_dump(mode="json"),
        "data": data_info_to_plain(run.info),
    }
    return save_pretrained(run.network, path, training=training)


def export_weights(run: LoadedRun, path: str | os.PathLike[str]) -> Path:
    """Write the network of ``run`` to one safetensors file, whole, however many processes trained it.

    Tensors have the names of the network's ``state_dict``, of a role those of its adapter. The file's header holds
    ``step`` and, as JSON, ``model``, the section of the configuration that builds the network, and of a role ``lora``.

    Raises:
        ValueError: ``path`` does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the file must be called something.safetensors, got '{path}'")
    # Copies, as safetensors refuses tensors that share memory, which tied weights do.
    tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in run.network.state_dict().items()}
    sections = {"model": run.config.model, **({"lora": run.config.lora} if isinstance(run.network, Role) else {})}
    described = {name: json.dumps(section.model_dump(mode="json")) for name, section in sections.items()}
    header = {"format": "pt", "step": str(run.step), **described}
    return write_atomically(path, save(tensors, header))
