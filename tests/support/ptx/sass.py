"""Machine code of NVIDIA GPUs: its loops, and how many loads are under way before one of them is waited for.

An instruction's upper word holds, beside its stall, the barrier that it sets when its result is there, and the barriers
that it waits for. (The encoding is that of compute capability 7.0 and later.)
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.support.compiled import run

NO_BARRIER = 7


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str
    sets: int | None  # the barrier that says that its result is there
    waits: frozenset[int]

    @property
    def name(self) -> str:
        """The opcode with its modifiers, without a predicate."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]

    @property
    def loads(self) -> bool:
        """Whether it reads global memory."""
        return self.name.startswith("LDG")

    @property
    def loads_vector(self) -> bool:
        """Whether it reads 16 bytes of global memory."""
        return self.loads and ".128" in self.name


@dataclass(frozen=True)
class Kernel:
    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # places in ``instructions``

    @cached_property
    def loops(self) -> list[tuple[Instruction, ...]]:
        """From the target of a branch backwards to the branch, from the first target on."""
        ranges = set()
        for at, each in enumerate(self.instructions):
            target = re.search(r"\bBRA\b.*`?\((\.L_\w+)\)", each.text)
            if target and self.labels[target[1]] < at:  # a branch to itself pads the end
                ranges.add((self.labels[target[1]], at))
        return [self.instructions[first : last + 1] for first, last in sorted(ranges)]

    def inner_loops(self) -> list[tuple[Instruction, ...]]:
        """The innermost of the loops that load vectors of 16 bytes."""
        loading = [loop for loop in self.loops if any(each.loads_vector for each in loop)]
        return [loop for loop in loading if not any(other is not loop and set(other) < set(loop) for other in loading)]

    def hot_loop(self) -> tuple[Instruction, ...]:
        """Of the innermost loops that load vectors of 16 bytes, the one with the most of them."""
        return max(self.inner_loops(), key=lambda loop: sum(each.loads_vector for each in loop))

    def uses_local_memory(self) -> bool:
        return any(each.name.startswith(("LDL", "STL")) for each in self.instructions)


def loads_under_way(instructions: Sequence[Instruction], *, of_any_size: bool = False) -> int:
    """How many vectors of 16 bytes, or loads, are asked for, from the first on, before one of them is waited for."""
    loads, barriers = 0, set()
    for each in instructions:
        if each.waits & barriers:
            break
        if each.loads_vector or (of_any_size and each.loads):
            loads += 1
            barriers.add(each.sets)
    return loads


def tool(name: str) -> str:
    """cuobjdump or nvdisasm: of the toolkit, or of those that Triton brings."""
    triton = importlib.util.find_spec("triton")
    brought = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name if triton else None
    found = shutil.which(name) or (str(brought) if brought and brought.exists() else None)
    if found is None:
        pytest.skip(f"no {name}")
    return found


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on an architecture; stack and local memory in bytes a thread."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    local: int


def resource_usage(library: Path) -> list[Usage]:
    """That of all kernels in a library."""
    found, architecture, kernel = [], "", ""
    for line in run([tool("cuobjdump"), "--dump-resource-usage", str(library)]).splitlines():
        if named := re.match(r"arch = (\w+)", line):
            architecture = named[1]
        elif named := re.match(r"\s*Function (\S+):", line):
            kernel = named[1]
        elif usage := re.match(r"\s*REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line):
            found.append(Usage(architecture, kernel, *map(int, usage.groups())))
    return found


def kernels_of_library(library: Path, source: str, architecture: str, folder: Path) -> list[Kernel]:
    """The kernels of a source file that a library has for an architecture; ``folder`` is for files."""
    name = f"{source}.{architecture}.cubin"
    run([tool("cuobjdump"), "-xelf", name, str(library.resolve())], folder)
    return kernels_of_cubin(folder / name)


def kernels_of_cubin(path: Path) -> list[Kernel]:
    text = run([tool("nvdisasm"), "-c", "-hex", str(path)])
    sections = re.split(r"\n\.text\.", text)[1:]
    return [_kernel(section) for section in sections]


def _kernel(section: str) -> Kernel:
    lines = section.splitlines()
    instructions, labels = [], {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label[1]] = len(instructions)
        code = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;?\s*/\* 0x[0-9a-f]{16} \*/", line)
        if code:
            word = int(re.search(r"/\* 0x([0-9a-f]{16}) \*/", following)[1], 16)
            barrier, mask = word >> 46 & 7, word >> 52 & 0x3F
            waits = frozenset(k for k in range(6) if mask >> k & 1)
            sets = None if barrier == NO_BARRIER else barrier
            instructions.append(Instruction(int(code[1], 16), code[2].rstrip(" ;"), sets, waits))
    return Kernel(lines[0].rstrip(":").strip(), tuple(instructions), labels)
