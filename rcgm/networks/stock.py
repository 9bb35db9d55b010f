"""Classes and weights of diffusers, which is imported when one is asked for."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._guards import detect_fake_mode

from rcgm.checks import one_of
from rcgm.networks.quantized import QUANTIZATIONS, in_four_bits, loading_options

if TYPE_CHECKING:
    from diffusers import ModelMixin

__all__ = ["DTYPES", "dtype_of", "dtype_option", "is_hub_name", "load_transformer", "stock_class", "unreadable"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Of weights, by their name in a configuration."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
PART = "transformer"


def stock_class(name: str) -> type[Any]:
    """A class of diffusers.

    Raises:
        ModuleNotFoundError: diffusers or transformers is not installed, or diffusers is older than the class.
    """
    try:
        import diffusers  # takes seconds
        import transformers  # noqa: F401 - without it diffusers has stand-ins for many classes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs the package {error.name}: pip install 'rcgm[text]'", name=error.name
        ) from error
    if not hasattr(diffusers, name):
        raise ModuleNotFoundError(
            f"diffusers {diffusers.__version__} has no {name}: pip install -U diffusers", name="diffusers"
        )
    return getattr(diffusers, name)


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype of weights: a key or a value of ``DTYPES``, otherwise ValueError."""
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return kind


def dtype_option(value: Any) -> dict[str, Any]:
    """The option of diffusers' ``from_pretrained`` that says the dtype, under the name of the installed version."""
    from diffusers import __version__

    renamed = tuple(int(part) for part in __version__.split(".")[:2]) >= (0, 42)
    return {"dtype" if renamed else "torch_dtype": value}


def is_hub_name(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` has the form of a name on the hub, ``owner/name``."""
    return HUB_NAME.fullmatch(str(path)) is not None


def unreadable(what: str, path: str | os.PathLike[str], error: Exception) -> ValueError:
    """The error for ``what``, which cannot be loaded from ``path`` since ``error`` came."""
    place = "" if Path(path).exists() else ", which is no folder here and so was looked for on the hub"
    return ValueError(f"path: cannot load {what} in '{path}'{place}: {error}")


def load_transformer(
    name: str,
    path: str | os.PathLike[str],
    dtype: str | torch.dtype = "float32",
    *,
    quantization: str = "none",
    part: str = PART,
) -> ModelMixin:
    """Load a transformer of the class ``name``.

    On the meta device (``with torch.device("meta")``) and under torch's FakeTensorMode its weights are not read.

    Args:
        name: of its class in diffusers.
        path: folder of a pipeline, whose folder ``part`` is taken, or of the transformer alone; or a name on the hub,
            ``owner/name``, of a pipeline.
        dtype: of the weights, a key or a value of ``DTYPES``; of quantized ones, that of what they compute.
        quantization: one of ``rcgm.networks.quantized.QUANTIZATIONS``; quantized weights cannot be trained.
        part: its name in the pipeline.

    Raises:
        ModuleNotFoundError: see :func:`stock_class`; or what quantization needs is not installed.
        ValueError: no such model, one of another class, files that cannot be read, or another dtype.
    """
    kind = dtype_of(dtype)
    one_of("quantization", quantization, QUANTIZATIONS)
    stock = stock_class(name)
    options = _where(path, part)
    quantized = loading_options(quantization)
    try:
        config = stock.load_config(path, **options)
    except Exception as error:  # diffusers and the hub's client each raise their own
        raise unreadable("a model", path, error) from error
    found = config.get("_class_name")
    if found != name:
        got = "no class of diffusers" if found is None else f"a {found}: choose the family of that class"
        raise ValueError(f"path must hold a {name}, got '{path}' with {got}")
    try:
        # where tensors have no content, as under FakeTensorMode too
        if torch.get_default_device().type == "meta" or detect_fake_mode() is not None:
            return _cast(stock.from_config(config), kind)
        transformer = stock.from_pretrained(path, use_safetensors=True, **dtype_option(kind), **options, **quantized)
    except Exception as error:
        raise unreadable(f"the {name}", path, error) from error
    return in_four_bits(transformer) if quantization == "nf4" else transformer


def _cast(transformer: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """``transformer`` in ``dtype``, but for what its class keeps in float32, as ``from_pretrained`` does."""
    kept = transformer._keep_in_fp32_modules or ()
    with torch.no_grad():
        for name, tensor in itertools.chain(transformer.named_parameters(), transformer.named_buffers()):
            if tensor.is_floating_point() and not any(part in name.split(".") for part in kept):
                tensor.data = tensor.data.to(dtype)
    return transformer


def _where(path: str | os.PathLike[str], part: str) -> dict[str, Any]:
    """The options by which diffusers finds the transformer of ``path``."""
    folder = Path(path)
    if not folder.exists():
        if is_hub_name(path):
            return {"subfolder": part}
        raise ValueError(f"path must be a folder of diffusers or a name on the hub, owner/name, got '{path}'")
    for place, options in ((folder, {}), (folder / part, {"subfolder": part})):
        if (place / "config.json").is_file():
            return {**options, "local_files_only": True}
    raise ValueError(
        f"path must hold {part}/config.json (a pipeline) or config.json (a transformer), got '{path}' without either"
    )
