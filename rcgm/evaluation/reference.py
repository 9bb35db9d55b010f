"""Statistics of real images in a file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rcgm.evaluation.image_quality import Reference
from rcgm.files import write_atomically

NPZ_NAMES = ("mu", "sigma")
NPZ_IMAGES = "arr_0"


def read_reference(path: str | os.PathLike[str]) -> tuple[Reference, Tensor | None]:
    """Statistics of real images, and images whose features are still to be computed, uint8 ``[M, 3, H, W]``, or None.

    Args:
        path: an ``.npz`` with the arrays ``mu [D]`` and ``sigma [D, D]``, and as in ADM's reference batches perhaps
            ``arr_0``, images uint8 ``[M, H, W, 3]``; or a ``.safetensors`` that :func:`write_reference` made.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or arrays that are not as above. No pickled array is read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no statistics of real images at '{path}'")
    if path.suffix == ".npz":
        return _from_npz(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path), None
    raise ValueError(f"statistics of real images need an .npz or .safetensors file, got '{path}'")


def write_reference(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write ``reference`` to a ``.safetensors`` file.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"statistics are written to a .safetensors file, got '{path}'")
    tensors = {"mean": reference.mean, "covariance": reference.covariance}
    if reference.features is not None:
        tensors["features"] = reference.features
    write_atomically(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _from_safetensors(path: Path) -> Reference:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"'{path}' is no safetensors file: {error}") from error
    missing = [name for name in ("mean", "covariance") if name not in tensors]
    if missing:
        raise ValueError(f"'{path}' has no tensor '{missing[0]}'; it has {sorted(tensors)}")
    features = tensors.get("features")
    reference = _checked(path, tensors["mean"], tensors["covariance"])
    if features is not None and (features.ndim != 2 or features.shape[1] != len(reference.mean)):
        raise ValueError(f"'{path}': features need the shape (M, {len(reference.mean)}), got {tuple(features.shape)}")
    return Reference(reference.mean, reference.covariance, features)


def _from_npz(path: Path) -> tuple[Reference, Tensor | None]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is no .npz file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in NPZ_NAMES if name not in arrays]
            if missing:
                raise ValueError(f"there is no array '{missing[0]}', only {sorted(arrays)}")
            mean, covariance = (torch.from_numpy(arrays[name]) for name in NPZ_NAMES)
            images = torch.from_numpy(arrays[NPZ_IMAGES]) if NPZ_IMAGES in arrays else None
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"'{path}' cannot be used: {error}") from error
    if images is None:
        return _checked(path, mean, covariance), None
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"'{path}': {NPZ_IMAGES} needs images, torch.uint8 (M, H, W, 3), got {got}")
    return _checked(path, mean, covariance), images.permute(0, 3, 1, 2)


def _checked(path: Path, mean: Tensor, covariance: Tensor) -> Reference:
    if mean.ndim != 1 or tuple(covariance.shape) != (len(mean), len(mean)):
        got = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise ValueError(f"'{path}': mean and covariance need the shapes (D,) and (D, D), got {got}")
    return Reference(mean.double(), covariance.double())
