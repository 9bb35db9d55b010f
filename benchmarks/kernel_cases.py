"""The operations of the kernel benchmark at one size, each beside the same thing in torch.

A variant is a list of works, one for each set of tensors: several sets, together larger than the last-level cache, are
worked on in turn, as in a training step, where the network's activations have swept the cache before. The losses are in
:mod:`benchmarks.loss_cases`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import rcgm_kernels
from rcgm.models import DiT

CACHE_BYTES = 192 * 2**20
MOST_SETS = 64
"""Of tiny samples no number of sets that anybody would wait for is larger than the cache."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Args:
        bytes_moved: each input read once, each output written once.
        term_bytes: of one tensor of samples; allocations of that size are counted.
        variants: ``"eager"``, ``"compile"`` and others, with our own by the names of their backends, ``ours``.
    """

    operation: str
    shape: Shape
    dtype: str
    bytes_moved: int
    term_bytes: int
    ours: tuple[str, ...]
    variants: dict[str, list[Callable[[], object]]] = field(default_factory=dict)

    @property
    def sets(self) -> int:
        return min(MOST_SETS, max(2, math.ceil(CACHE_BYTES / self.bytes_moved)))

    def without(self, names: Collection[str]) -> Case:
        """The case without some variants."""
        kept = {name: works for name, works in self.variants.items() if name not in names}
        return replace(self, ours=tuple(name for name in self.ours if name not in names), variants=kept)

    def restricted(self, backend: str | None, *, compiled: bool) -> Case:
        """The case with one of our backends (None: all), and without torch.compile unless ``compiled``."""
        others = [] if backend is None else [name for name in self.ours if name != backend]
        return self.without({*others, *(f"l2 {name}" for name in others), *([] if compiled else ["compile"])})

    def add(self, name: str, work: Callable[[], object]) -> None:
        self.variants.setdefault(name, []).append(work)


def backends(device: torch.device) -> tuple[str, ...]:
    """Our backends for the device, those that can run."""
    from rcgm_kernels.backends import BACKENDS

    names = ("cuda", "triton") if device.type == "cuda" else ("cpu",)
    return tuple(name for name in names if BACKENDS[name].unavailable() is None)


def interpolate_case(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    """A path point and its velocity: two tensors read, two written."""
    elements = math.prod(shape)
    case = Case("interpolate, 2 points", shape, str(dtype)[6:], 4 * elements * dtype.itemsize,
                elements * dtype.itemsize, backends(device))  # fmt: skip

    def eager(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
        a, g = (values.reshape(*values.shape, *[1] * (x.ndim - 1)) for values in (alpha, gamma))
        return (a * z.float() + g * x.float()).to(x.dtype)

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        x, z = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
        t = torch.rand(shape[0], device=device)
        given = (x, z, torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)]))
        for backend in case.ours:
            case.add(backend, lambda g=given, backend=backend: rcgm_kernels.interpolate(*g, backend=backend))
        case.add("eager", lambda given=given: eager(*given))
        case.add("compile", lambda given=given: compiled(*given))
    return case


def advance_case(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    """A rollout step into a given tensor: two tensors read, one written."""
    elements = math.prod(shape)
    case = Case("advance", shape, str(dtype)[6:], 3 * elements * dtype.itemsize, elements * dtype.itemsize,
                backends(device))  # fmt: skip

    def eager(x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, out: Tensor) -> Tensor:
        return out.copy_(x.float() - (t - r).reshape(-1, *[1] * (x.ndim - 1)) * velocity.float())

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        x, velocity, out = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
        t = torch.rand(shape[0], device=device)
        given = (x, velocity, t, t / 2)
        for backend in case.ours:
            case.add(backend, lambda g=given, out=out, b=backend: rcgm_kernels.advance(*g, out=out, backend=b))
        case.add("eager", lambda given=given, out=out: eager(*given, out))
        case.add("compile", lambda given=given, out=out: compiled(*given, out))
    return case


def ema_case(device: torch.device, *, compiled: bool = True) -> Case:
    """A model's EMA with its bfloat16 copy: average and parameter read, average and copy written.

    On a GPU the model is DiT-XL/2, of 675 million parameters, on a CPU DiT-S/2. ``eager`` and ``mul and add`` are
    torch's two foreach forms.
    """
    preset = "S/2" if device.type == "cpu" else "XL/2"
    with torch.device("meta"):
        network = DiT.from_preset(preset, input_size=32, in_channels=4, num_classes=1000)
    shapes = [parameter.shape for parameter in network.parameters()]
    elements = sum(shape.numel() for shape in shapes)
    case = Case("ema_update_, with bf16", (elements,), "float32", elements * (4 + 4 + 4 + 2), elements * 4,
                backends(device))  # fmt: skip

    def eager(averages: list[Tensor], params: list[Tensor], copies: list[Tensor]) -> None:
        torch._foreach_lerp_(averages, params, 0.001)
        torch._foreach_copy_(copies, averages)

    def mul_and_add(averages: list[Tensor], params: list[Tensor], copies: list[Tensor]) -> None:
        torch._foreach_mul_(averages, 0.999)
        torch._foreach_add_(averages, params, alpha=0.001)
        torch._foreach_copy_(copies, averages)

    whole = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        averages, params = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(2))
        copies = [average.bfloat16() for average in averages]
        given = (averages, params, copies)
        for backend in case.ours:
            case.add(backend, lambda g=given, b=backend: rcgm_kernels.ema_update_(*g[:2], 0.999, g[2], backend=b))
        case.add("eager", lambda given=given: eager(*given))
        case.add("mul and add", lambda given=given: mul_and_add(*given))
        if compiled:
            case.add("compile", lambda given=given: whole(*given))
    return case
