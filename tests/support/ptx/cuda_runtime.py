"""The CUDA backend's host code on a runtime without a device, which runs nvcc's PTX in the interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.ptx.launch import launch
from tests.support.ptx.machine import Program
from tests.support.ptx.memory import Memory
from tests.support.ptx.text import Module
from tests.support.ptx.wave import Grid

# As driver_types.h numbers them.
INVALID_VALUE, INVALID_DEVICE, NO_IMAGE, LAUNCH_FAILED, INVALID_CLUSTER = 1, 101, 209, 719, 912
MULTIPROCESSORS, SHARED_OPT_IN, CLUSTER_LAUNCH = 16, 97, 120
MORE_SHARED, LARGE_CLUSTERS = 8, 14  # attributes of kernels
STREAM = 0x5EED  # torch's current stream at first
SHARED_WITHOUT_ATTRIBUTE, CLUSTER_WITHOUT_ATTRIBUTE = 48 << 10, 8


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", c_char_p),
        ("blocks", c_uint),
        ("threads", c_uint),
        ("cluster", c_uint),
        ("shared", c_size_t),
        ("stream", c_void_p),
        ("arguments", POINTER(c_void_p)),
    )


HOOKS = {
    "launch": (POINTER(_Launch),),
    "clusters": (POINTER(_Launch), POINTER(c_int)),
    "allow": (c_char_p, c_int, c_int),
    "attribute": (c_int, c_int, POINTER(c_int)),
    "get_device": (POINTER(c_int),),
    "set_device": (c_int,),
    "count": (POINTER(c_int),),
    "find": (c_char_p,),
    "variable": (c_char_p, c_size_t, POINTER(c_void_p)),
    "capturing": (c_void_p, POINTER(c_int)),
    "clear": (c_void_p, c_size_t, c_void_p),
}
TYPES = {name: ctypes.CFUNCTYPE(c_int, *arguments) for name, arguments in HOOKS.items()}


class _Hooks(ctypes.Structure):
    _fields_ = tuple(TYPES.items())


@dataclass(frozen=True)
class Launched:
    """One launch: the kernel's name in C++ without its namespaces and mangled, where it ran, and its threads there."""

    kernel: str
    symbol: str
    grid: Grid
    device: int
    stream: int
    parameters: bytes
    executed: NDArray[np.int64]  # how many threads ran each instruction of the program


@dataclass
class Runtime:
    """A host with devices of compute capability 9.0, whose kernels run at once.

    ``failures`` holds errors that the next calls of a function return, by the name of the hook.
    """

    library: Path
    memory: Memory
    multiprocessors: int = 132
    shared: int = 227 << 10
    largest_cluster: int = 16  # that the device can hold
    clusters_exist: bool = True
    devices: int = 1 << 16
    device: int = 0  # the current one
    stream: int = STREAM
    is_capturing: bool = False
    number: int = 1  # of the device that is used; torch counts to 127
    failures: dict[str, list[int]] = field(default_factory=dict)
    launches: list[Launched] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    error: Exception | None = None  # of the interpreter
    allowed: dict[tuple[bytes, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._handle = ctypes.CDLL(str(self.library))
        self._handle.binary.restype = c_void_p
        hooks = {name: TYPES[name](self._hook(name)) for name in HOOKS}
        self._hooks = _Hooks(**hooks)  # kept as long as the library may call them
        self._handle.set_hooks(ctypes.byref(self._hooks))
        self._modules: dict[str, Module] = {}
        for index in range(self._handle.binary_count()):
            module = Module(_ptx(self._handle.binary(index)))
            self._modules |= dict.fromkeys(module.kernels, module)
        self._programs: dict[str, Program] = {}
        self._variables: dict[tuple[int, bytes], Tensor] = {}

    def reset(self) -> None:
        """A whole device, while the first is the current one; another device once it was asked what it can hold.

        The backend remembers what a device has said.
        """
        self.number += "clusters" in self.calls
        self.multiprocessors, self.shared, self.largest_cluster = 132, 227 << 10, 16
        self.clusters_exist, self.device, self.error = True, 0, None
        self.stream, self.is_capturing = STREAM, False
        for each in (self.failures, self.launches, self.calls, self.allowed):
            each.clear()
        self.memory.clear()

    def kernels(self) -> list[str]:
        return list(self._modules)

    def program(self, kernel: str) -> Program:
        if kernel not in self._programs:
            self._programs[kernel] = Program.of(self._modules[kernel].kernel(kernel))
        return self._programs[kernel]

    def variables(self, device: int) -> list[Tensor]:
        """The bytes of the modules' variables that were asked for on a device."""
        return [variable for (owner, _), variable in self._variables.items() if owner == device]

    def raise_error(self) -> None:
        """Raise what the interpreter found in the last launch."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _hook(self, name: str) -> Callable[..., int]:
        function = getattr(self, f"_{name}")

        def call(*arguments: object) -> int:
            self.calls.append(name)
            if self.failures.get(name):
                return self.failures[name].pop(0)
            return function(*arguments)

        return call

    def _launch(self, given: object) -> int:
        call = given.contents
        kernel, cluster = call.kernel.decode(), call.cluster
        problem = self._unsupported(call)
        if problem or cluster > self.largest_cluster:
            return problem or INVALID_CLUSTER
        grid = Grid(call.blocks, call.threads, cluster, call.shared)
        for (device, name), variable in self._variables.items():
            if device == self.device:
                self.memory.add(variable, name.decode(), writable=True)
        try:
            program = self.program(kernel)
            parameters = _parameters(program, call.arguments)
            executed = launch(program, self.memory, parameters, grid)
        except Exception as error:  # ctypes would only print it
            self.error = error
            return LAUNCH_FAILED
        launched = Launched(_short(kernel), kernel, grid, self.device, call.stream or 0, parameters, executed)
        self.launches.append(launched)
        return 0

    def _unsupported(self, call: _Launch) -> int:
        """What the runtime says of a shape that the kernel has not been allowed."""
        static = self.program(call.kernel.decode()).code.shared.values()
        own = sum(max(size, 0) for _, size in static)
        if call.shared + own > self.shared:
            return INVALID_VALUE
        if call.shared + own > SHARED_WITHOUT_ATTRIBUTE and call.shared > self.allowed.get(
            (call.kernel, MORE_SHARED), 0
        ):
            return INVALID_VALUE
        if call.cluster > 1 and not self.clusters_exist:
            return INVALID_VALUE
        large = self.allowed.get((call.kernel, LARGE_CLUSTERS), 0)
        if call.cluster > CLUSTER_WITHOUT_ATTRIBUTE and not large:
            return INVALID_CLUSTER
        return 0

    def _clusters(self, given: object, count: object) -> int:
        call = given.contents
        problem = self._unsupported(call)
        count[0] = int(call.cluster <= self.largest_cluster)
        return problem

    def _allow(self, kernel: bytes, attribute: int, value: int) -> int:
        if attribute == MORE_SHARED and value > self.shared:
            return INVALID_VALUE
        self.allowed[kernel, attribute] = value
        return 0

    def _attribute(self, which: int, device: int, value: object) -> int:
        if not 0 <= device < self.devices:
            return INVALID_DEVICE
        value[0] = {
            MULTIPROCESSORS: self.multiprocessors,
            SHARED_OPT_IN: self.shared,
            CLUSTER_LAUNCH: int(self.clusters_exist),
        }[which]
        return 0

    def _get_device(self, device: object) -> int:
        device[0] = self.device
        return 0

    def _set_device(self, device: int) -> int:
        if not 0 <= device < self.devices:
            return INVALID_DEVICE
        self.device = device
        return 0

    def _count(self, count: object) -> int:
        count[0] = self.devices
        return 0

    def _find(self, kernel: bytes) -> int:
        return 0 if kernel.decode() in self._modules else NO_IMAGE

    def _variable(self, name: bytes, size: int, address: object) -> int:
        variable = self._variables.setdefault((self.device, name), torch.zeros(size, dtype=torch.uint8))
        address[0] = variable.data_ptr()
        return 0

    def _capturing(self, stream: int, status: object) -> int:
        status[0] = int(self.is_capturing)
        return 0

    def _clear(self, to: int, size: int, stream: int) -> int:
        self.memory.store(np.full(1, to, np.uint64), np.zeros((1, 1), f"u{size}"))
        return 0


def _ptx(binary: int) -> str:
    """The text in a fat binary that is not compressed: behind a header, of which the second word is the size."""
    header = (ctypes.c_uint64 * 2).from_address(binary)
    assert header[0] & 0xFFFFFFFF == 0xBA55ED50, "no fat binary"
    content = ctypes.string_at(binary, header[1] + 16)
    start = content.index(b".version")
    return content[start : content.index(b"\0", start)].decode()


def _parameters(program: Program, arguments: object) -> bytes:
    packed = bytearray(program.code.parameter_bytes)
    for index, (offset, size) in enumerate(program.code.parameters.values()):
        packed[offset : offset + size] = ctypes.string_at(arguments[index], size)
    return bytes(packed)


def _short(kernel: str) -> str:
    """``on_chip_kernel`` of a mangled name: the last of the names before the arguments of the template."""
    names, rest = [], kernel.removeprefix("_ZN")
    while rest[:1].isdigit():
        digits = len(rest) - len(rest.lstrip("0123456789"))
        length = int(rest[:digits])
        names.append(rest[digits : digits + length])
        rest = rest[digits + length :]
    return names[-1] if names else kernel
