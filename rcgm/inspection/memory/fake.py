"""Tensors without content: a training step runs on them as it is, and takes no memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["without_content"]


@contextlib.contextmanager
def without_content() -> Iterator[None]:
    """All tensors that are made in the body have shapes, dtypes and storages, but no content (FakeTensor).

    Modules are made and converted in the body; random weights are not drawn. The body may not look at values.
    """
    before = nn.Module._apply
    nn.Module._apply = _converted_in_place  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings(), _Mode():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


class _Mode(FakeTensorMode):
    """FakeTensorMode, under which networks can be copied and the states of generators read."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mode:
        return self  # of every tensor that is copied: tensors of different modes do not go together

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The state of a generator is a real tensor, and so is what numpy() makes of it.
        if func is torch.ops.aten.detach.default and not isinstance(args[0], FakeTensor):
            return func(*args)
        # Where a mask holds is not known: it stands for captions of full length.
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
        # It makes the tangent of a view; the cache of results forgets that its storage is larger than itself.
        self.cache_enabled = func is not torch.ops.aten._new_zeros_with_same_feature_meta.default
        return super().__torch_dispatch__(func, types, args, kwargs or {})


def _converted_in_place(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``Module._apply``: torch swaps the parameters, which it refuses for tensors that a mode refers to."""
    if recurse:
        for child in module.children():
            child._apply(fn)
    for parameter in module._parameters.values():
        if parameter is not None:
            parameter.data = fn(parameter.data)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module
