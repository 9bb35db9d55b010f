"""A process in which Triton compiles for sm_90 and the interpreter runs what it compiled.

A process of its own, since TRITON_INTERPRET, which is settled when Triton is imported, has its own interpreter run the
kernels elsewhere in the tests.
"""

from __future__ import annotations

import multiprocessing
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from tests.support.implementations import environment
from tests.support.ptx.launch import launch
from tests.support.ptx.machine import Program
from tests.support.ptx.memory import Memory
from tests.support.ptx.text import Module
from tests.support.ptx.watching import watched
from tests.support.ptx.wave import Grid

Result = TypeVar("Result")
MEMORY = Memory()
PACKED = {"fp64": "<d", "fp32": "<f", "i64": "<q", "i32": "<i", "u64": "<Q", "u32": "<I", "i1": "<?"}


@dataclass(frozen=True)
class Launch:
    """What one launch of a Triton kernel ran."""

    kernel: str
    grid: Grid


LAUNCHES: list[Launch] = []
MACHINE_CODE: dict[str, tuple[str, bytes]] = {}  # names and cubins of the launched kernels, by their hashes


@contextmanager
def compiling_process() -> Iterator[Callable[..., Any]]:
    """Calls a function, by ``(function, *arguments)``, where the Triton backend takes CPU tensors."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_become_device) as pool:

        def call(function: Callable[..., Result], *arguments: object) -> Result:
            return pool.submit(_called, function, *arguments).result()

        with environment("TRITON_INTERPRET", None):
            call(len, ())  # the process starts with the first call
        yield call


def _called(function: Callable[..., Result], *arguments: object) -> Result:
    from rcgm_kernels.backends import triton as backend

    LAUNCHES.clear()
    MACHINE_CODE.clear()
    with watched(backend, MEMORY):
        return function(*arguments)


def _become_device() -> None:
    """Make this process compile for sm_90, and run kernels in the interpreter."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from rcgm_kernels.backends import triton as backend

    class Device:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

    driver.set_active(Device)
    compiled, programs = JITFunction.run, {}

    def run(self: Any, *arguments: object, grid: tuple[int], warmup: bool, **options: object) -> Any:
        kernel = compiled(self, *arguments, grid=grid, warmup=True, **options)
        if kernel.hash not in programs:
            module = Module(kernel.asm["ptx"])
            programs[kernel.hash] = Program.of(module.kernel(module.kernels[0]))
        values = dict(zip(self.arg_names, arguments, strict=False)) | options
        given = [pair for name, kind in kernel.src.signature.items() for pair in _flat(kind, values[name])]
        shape = Grid(grid[0], 32 * kernel.metadata.num_warps, 1, kernel.metadata.shared)
        launch(programs[kernel.hash], MEMORY, _parameters(programs[kernel.hash], given), shape)
        MACHINE_CODE[kernel.hash] = (self.fn.__name__, kernel.asm["cubin"])
        LAUNCHES.append(Launch(self.fn.__name__, shape))
        return kernel

    JITFunction.run = run
    backend.unavailable, backend.supports = lambda: None, lambda device: True


def _flat(kind: object, value: object) -> Iterator[tuple[str, object]]:
    """The arguments that a compiled kernel takes: tuples one by one, none that it was compiled for."""
    if isinstance(kind, (tuple, list)):
        for each, part in zip(kind, value, strict=True):
            yield from _flat(each, part)
    elif kind != "constexpr":
        yield kind, value


def _parameters(program: Program, given: list[tuple[str, object]]) -> bytes:
    """The arguments as a kernel finds them; behind them are two addresses of scratch memory, which is not used."""
    places = list(program.code.parameters.values())
    assert len(places) == len(given) + 2, "Triton passes its arguments otherwise"
    packed = bytearray(program.code.parameter_bytes)
    for (offset, size), (kind, value) in zip(places, given, strict=False):
        if isinstance(value, Tensor):
            MEMORY.add(value, "a tensor of the backend", writable=True)
            content = struct.pack("<Q", value.data_ptr())
        else:
            content = struct.pack(PACKED[kind], value)
        assert len(content) == size
        packed[offset : offset + size] = content
    return bytes(packed)
