"""NVIDIA apex's fused optimizer, where it is installed. On PyPI another project has the name ``apex``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["counts_by_group", "fused_adam", "obstacle"]

GET = "build it from github.com/NVIDIA/apex with its CUDA extensions"


def fused_adam() -> Callable[..., torch.optim.Optimizer]:
    """The class ``apex.optimizers.FusedAdam``.

    Raises:
        ImportError: NVIDIA's apex is not installed, or without its CUDA extensions.
    """
    try:
        optimizer = importlib.import_module("apex.optimizers").FusedAdam
        built = importlib.import_module("apex.multi_tensor_apply").multi_tensor_applier.available
    except (ImportError, AttributeError, OSError) as error:  # OSError: a library that it was built with is gone
        raise ImportError(f"NVIDIA apex is not installed ({error}); {GET}") from error
    if not built:
        raise ImportError(f"NVIDIA apex is installed without its CUDA extensions; {GET}")
    return optimizer


def obstacle(parameters: Sequence[Tensor]) -> str | None:
    """Why apex cannot train ``parameters``; None where it can."""
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        return "it takes no sharded parameters; torch's does"
    if not all(on_gpu(parameter) for parameter in parameters):
        return "it runs on a GPU alone"
    try:
        fused_adam()
    except ImportError as error:
        return str(error)
    return None


def on_gpu(tensor: Tensor) -> bool:
    """Whether ``tensor`` lies on a GPU of NVIDIA's or of another maker that torch calls cuda."""
    return tensor.device.type == "cuda"


def counts_by_group(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``optimizer`` counts the steps of a group of parameters rather than those of each."""
    return type(optimizer).__module__.partition(".")[0] == "apex"
