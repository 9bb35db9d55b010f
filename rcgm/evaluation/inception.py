"""The Inception network of FID: torch-fidelity's port of the original one, its weights from a file."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["FeatureNetwork", "load_inception"]

FeatureNetwork = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images to their features and logits."""
"""Images uint8 ``[B, 3, H, W]`` to features floating ``[B, D]`` and logits floating ``[B, K]``."""

LAYERS = ["2048", "logits_unbiased"]


def load_inception(path: str | os.PathLike[str], device: torch.device) -> FeatureNetwork:
    """The network that published FIDs and Inception Scores are measured with, in float32.

    Args:
        path: its weights: the state dictionary of torch-fidelity's ``FeatureExtractorInceptionV3`` as ``.safetensors``,
            or as torch saves it (``weights-inception-2015-12-05-6726825d.pth`` of the releases of torch-fidelity).
            Nothing but tensors is read from either.
        device: to run on.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        FileNotFoundError: no such file.
        ValueError: the file holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights of the Inception network at '{path}'")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the Inception network needs the package torch-fidelity: pip install 'rcgm[evaluate]'",
            name="torch_fidelity",
        ) from error
    weights = _read(path)
    # The constructor reads its weights with a full unpickler, so it is given a file that has just been written here.
    stream = io.BytesIO()
    torch.save(weights, stream)
    stream.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", LAYERS, feature_extractor_weights_path=stream).to(
            device
        )
    except RuntimeError as error:
        raise ValueError(
            f"'{path}' does not hold the weights of torch-fidelity's Inception network: {error}"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"'{path}' holds no weights that can be read safely: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"'{path}' needs a state dictionary, tensors by name")
    return weights
