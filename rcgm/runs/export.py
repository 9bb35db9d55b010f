"""The network of a run as one file, or as a folder in the layout of model hubs or of diffusers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from rcgm.config import build_objective_from
from rcgm.files import write_atomically
from rcgm.models import save_pretrained
from rcgm.networks import PublishedNetwork
from rcgm.networks.saving import save_adapter, save_published
from rcgm.roles import Role, base_of
from rcgm.runs.loading import LoadedRun, data_info_to_plain
from rcgm.runs.sampler import method_of
from rcgm.transports import Linear

__all__ = ["export_run", "export_weights"]

OTHER_FILES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def export_run(run: LoadedRun, path: str | os.PathLike[str], *, lora: bool = False, whole: bool = False) -> Path:
    """Write the network of ``run``: to one file if ``path`` ends in ``.safetensors``, and else to a new folder.

    The folder of a published network has the layout of diffusers, adapters added to the weights: see
    :func:`~rcgm.networks.saving.save_published`. That of another network is one of
    :func:`~rcgm.models.save_pretrained`; of its training it keeps step, objective and data.

    Args:
        run: to write.
        path: file or folder.
        lora: write the adapters alone, to a folder, as diffusers loads them: see
            :func:`~rcgm.networks.saving.save_adapter`.
        whole: copy the other parts of the pipeline that the network comes from to the folder, too.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: ``path`` has the ending of a file of another format; the run has trained adapters of a network of
            ours; ``lora`` or ``whole`` does not fit the run; or its objective has another transport than diffusers.
    """
    published = isinstance(base_of(run.network), PublishedNetwork)
    role = isinstance(run.network, Role)
    one_file = Path(path).suffix in (".safetensors", *OTHER_FILES)
    _check_options(path, published=published, role=role, one_file=one_file, lora=lora, whole=whole)
    if one_file:
        return export_weights(run, path)
    if published:
        return _export_published(run, path, lora=lora, whole=whole)
    if role:
        raise ValueError(f"adapters are exported to one file: give something.safetensors, got '{path}'")
    training = {
        "step": run.step,
        "objective": run.config.objective.model_dump(mode="json"),
        "data": data_info_to_plain(run.info),
    }
    return save_pretrained(run.network, path, training=training)


def _check_options(
    path: str | os.PathLike[str], *, published: bool, role: bool, one_file: bool, lora: bool, whole: bool
) -> None:
    for name, given in (("lora", lora), ("whole", whole)):
        if given and one_file:
            raise ValueError(f"{name} needs a folder, got the file '{path}': leave out its ending")
        if given and not published:
            raise ValueError(f"{name} must be left out for networks of ours: it is for published ones")
    if lora and not role:
        raise ValueError("lora must be left out for a run with tune full: all its weights are trained")
    if lora and whole:
        raise ValueError("whole must be left out with lora: adapters are loaded into a pipeline that is there")


def _export_published(run: LoadedRun, path: str | os.PathLike[str], *, lora: bool, whole: bool) -> Path:
    method = method_of(build_objective_from(run.config))
    if type(method.transport) is not Linear:
        raise ValueError(
            "objective.transport must be linear for the pipelines of diffusers, got "
            f"{type(method.transport).__name__}: give something.safetensors to export the weights as they are"
        )
    if lora:
        return save_adapter(run.network, path, sampler=method.sampler)
    pipeline = run.config.model.arguments["path"] if whole else None
    return save_published(run.network, path, sampler=method.sampler, pipeline=pipeline)


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
