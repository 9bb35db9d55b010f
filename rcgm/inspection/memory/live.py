"""A count of the storages that are alive, by what they are for."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["OTHER", "LiveMemory"]

OTHER = "activations"
"""What nobody has named: activations, and what operators and formulas keep for a while."""


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all storages that operators make in its body, real or without content.

    What an operator takes inside and gives back before it returns is not seen.

    Args:
        views: what bytes are multiplied by, by name, once for each view: a shard of a parameter is a part of it. 1 for
            names that a view leaves out.

    Attributes:
        now: bytes by name.
        peaks: of each view, the bytes by name at the moment when all of them together were the most.
    """

    def __init__(self, views: Sequence[Mapping[str, float]] = ({},)) -> None:
        super().__init__()
        self._views = [dict(view) for view in views]
        self._names: dict[int, str] = {}
        self.now: dict[str, float] = {}
        self.peaks: list[dict[str, float]] = []
        self._most: list[float] = []
        self.forget_peaks()

    def name(self, tensors: Iterable[Tensor], name: str) -> None:
        """Say what ``tensors`` are for, be they known already or not."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) in self._names:
                self._add(self._names[id(storage)], -storage.nbytes())
                self._names[id(storage)] = name
                self._add(name, storage.nbytes())
            else:
                self._note(storage, name)
        self._look()

    def set(self, name: str, size: float) -> None:
        """Count ``size`` bytes under ``name`` that no tensor stands for."""
        self.now[name] = size
        self._look()

    def forget_peaks(self) -> None:
        """Begin anew with what is alive now."""
        self.peaks, self._most = [{} for _ in self._views], [-1.0 for _ in self._views]
        self._look()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._names:
                    self._note(storage, OTHER)
        self._look()
        return result

    def _note(self, storage: torch.UntypedStorage, name: str) -> None:
        key, size = id(storage), storage.nbytes()
        self._names[key] = name
        self._add(name, size)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._add(self._names.pop(key), -size)

    def _add(self, name: str, size: int) -> None:
        self.now[name] = self.now.get(name, 0.0) + size

    def _look(self) -> None:
        for index, view in enumerate(self._views):
            total = sum(size * view.get(name, 1.0) for name, size in self.now.items())
            if total > self._most[index]:
                self._most[index] = total
                self.peaks[index] = {name: size * view.get(name, 1.0) for name, size in self.now.items()}
