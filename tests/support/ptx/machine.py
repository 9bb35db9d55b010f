"""Runs a wave of blocks: control flow, barriers, and the fate of threads that part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx import arithmetic, bits, conversions, movement, warps  # noqa: F401 (they fill the table)
from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.opcodes import DECODERS, Step, decoded
from tests.support.ptx.text import Code, Instruction
from tests.support.ptx.wave import Lanes, Wave

CONTROL = ("bra", "ret", "exit", "bar", "barrier", "trap", "brkpt")
ORDERING = ("membar", "fence")  # a wave sees each store at once


@dataclass(frozen=True)
class Program:
    """A kernel whose instructions are decoded; control instructions are None there."""

    code: Code
    steps: list[Step | None]

    @classmethod
    def of(cls, code: Code) -> Program:
        return cls(code, [_step(instruction, code) for instruction in code.instructions])


def _nothing(wave: Wave, lanes: Lanes) -> None:
    pass


def _step(instruction: Instruction, code: Code) -> Step | None:
    if instruction.name in ORDERING:
        return _nothing
    if instruction.name in CONTROL and "warp" not in instruction.modifiers:
        if instruction.name == "bra" and instruction.operands[0] not in code.labels:
            raise UnknownInstructionError(instruction.text)
        if instruction.name.startswith("bar"):
            _barrier(instruction)
        return None
    return decoded(instruction)


def _barrier(instruction: Instruction) -> str:
    """``block``, ``arrive`` or ``wait`` (of a cluster)."""
    modifiers = set(instruction.modifiers) - {"aligned", "acquire", "release"}
    if modifiers in ({"sync"}, {"cta", "sync"}) and instruction.operands == ("0",):
        return "block"
    if instruction.name == "barrier" and modifiers in ({"cluster", "arrive"}, {"cluster", "wait"}):
        return (modifiers - {"cluster"}).pop()
    raise UnknownInstructionError(instruction.text)


class Run:
    """One wave on its way through a program.

    Threads that are at the same instruction go on together. Of several groups the one furthest behind goes first, so
    that threads that part meet again where their ways do.
    """

    def __init__(self, program: Program, wave: Wave) -> None:
        self.program, self.wave = program, wave
        self.end = len(program.steps)
        self.ready: dict[int, NDArray[np.int64]] = {0: np.arange(wave.count)}
        self.waiting = np.full(wave.count, -1)  # at which instruction
        self.passed = np.zeros(wave.count, np.int64)  # barriers of the cluster
        self.executed = np.zeros(self.end, np.int64)

    def run(self) -> NDArray[np.int64]:
        """How many threads ran each instruction, those included whose guard did not let them."""
        with np.errstate(all="ignore"):
            while self.ready or (self.waiting >= 0).any():
                if not self.ready:
                    self._release()
                start = min(self.ready)
                self._go(start, self.ready.pop(start))
        self._check_ends()
        return self.executed

    def _check_ends(self) -> None:
        """A block may end only after a barrier of the cluster that follows what others read of its shared memory."""
        last = self.wave.arrived.reshape(self.wave.blocks, -1).min(1)
        early = np.flatnonzero(self.wave.read_after >= last)
        if len(early):
            raise KernelError(
                f"block {self.wave.first_block + early[0]} may end while another reads its shared memory, "
                f"in {self.program.code.name}"
            )

    def _go(self, at: int, chosen: NDArray[np.int64]) -> None:
        """Run a group until it parts, waits, returns or meets another."""
        meets, lanes = min(self.ready, default=self.end), self.wave.lanes(chosen)
        steps, instructions = self.program.steps, self.program.code.instructions
        while at < self.end:
            if at >= meets:
                self._add(at, self._numbers(lanes))
                return
            instruction = instructions[at]
            self.executed[at] += self.wave.number(lanes)
            try:
                taken = lanes if instruction.guard is None else self._guarded(instruction, lanes)
                if steps[at] is None:
                    self._control(at, instruction, lanes, taken)
                    return
                if taken is not None:
                    steps[at](self.wave, taken)
            except KernelError as fault:
                raise KernelError(
                    f"{fault}, at instruction {at} of {self.program.code.name}: {instruction.text}"
                ) from None
            at += 1
        self._return(self._numbers(lanes))

    def _guarded(self, instruction: Instruction, lanes: Lanes) -> Lanes | None:
        """Those of the threads whose guard lets them; None if there are none."""
        allowed = self.wave.value(instruction.guard, "pred", lanes, "a condition")
        allowed = ~allowed if instruction.negated else allowed
        if allowed.all():
            return lanes
        return self.wave.where_true(lanes, allowed) if allowed.any() else None

    def _numbers(self, lanes: Lanes) -> NDArray[np.int64]:
        return np.arange(self.wave.count) if isinstance(lanes, slice) else lanes

    def _add(self, at: int, chosen: NDArray[np.int64]) -> None:
        if len(chosen):
            self.ready[at] = np.union1d(self.ready[at], chosen) if at in self.ready else chosen

    def _return(self, chosen: NDArray[np.int64]) -> None:
        self.wave.left[chosen] = True

    def _control(self, at: int, instruction: Instruction, lanes: Lanes, taken: Lanes | None) -> None:
        numbers = self._numbers(lanes)
        going = numbers[:0] if taken is None else self._numbers(taken)
        staying = numbers[:0] if len(going) == len(numbers) else np.setdiff1d(numbers, going, assume_unique=True)
        self._add(at + 1, staying)
        if instruction.name == "bra":
            self._add(self.program.code.labels[instruction.operands[0]], going)
        elif instruction.name in ("ret", "exit"):
            self._return(going)
        elif not instruction.name.startswith("bar"):
            if len(going):
                raise KernelError(f"{instruction.name} in {self.wave.where(going[0])}")
        elif len(going):
            kind = _barrier(instruction)
            if kind == "arrive":
                self.wave.arrived[going] += 1
                self._add(at + 1, going)
                return
            if kind == "wait" and (self.wave.arrived[going] != self.passed[going] + 1).any():
                raise KernelError("a wait for the cluster without an arrival before it")
            self.waiting[going] = at

    def _release(self) -> None:
        """Let go on all blocks, or clusters, that wait together."""
        wave, released = self.wave, False
        for first in range(0, wave.blocks, wave.grid.cluster):
            cluster = slice(first * wave.threads, (first + wave.grid.cluster) * wave.threads)
            for block in range(first, first + wave.grid.cluster):
                lanes = slice(block * wave.threads, (block + 1) * wave.threads)
                released |= self._release_these(lanes, "block")
            released |= self._release_these(cluster, "wait")
        if not released:
            self._stuck()

    def _release_these(self, lanes: slice, kind: str) -> bool:
        waiting = self.waiting[lanes]
        at = waiting[0] if kind == "block" else waiting.max()
        if at < 0 or _barrier(self.program.code.instructions[at]) != kind:
            return False
        if kind == "block" and (waiting != at).any():
            return False
        if kind == "wait":
            # Different instructions may wait for the same phase. A thread that has returned has arrived.
            needed = self.passed[lanes][waiting >= 0].min() + 1
            if (self.wave.arrived[lanes][~self.wave.left[lanes]] < needed).any():
                return False
        for each in np.unique(waiting[waiting >= 0]):
            chosen = np.flatnonzero(self.waiting[lanes] == each) + lanes.start
            self._add(int(each) + 1, chosen)
            self.passed[chosen] += kind == "wait"
            self.waiting[chosen] = -1
        return True

    def _stuck(self) -> None:
        lane = int(np.flatnonzero(self.waiting >= 0)[0])
        block = slice(
            lane // self.wave.threads * self.wave.threads, (lane // self.wave.threads + 1) * self.wave.threads
        )
        at = self.waiting[lane]
        others = np.flatnonzero(self.waiting[block] != at) + block.start
        text = self.program.code.instructions[at].text
        if len(others) == 0:
            raise KernelError(
                f"the cluster of {self.wave.where(lane)} never comes together at instruction {at}: {text}"
            )
        other = int(others[0])
        state = "has returned" if self.wave.left[other] else f"waits at instruction {self.waiting[other]}"
        raise KernelError(
            f"{self.wave.where(lane)} waits at instruction {at}, {text}, but {self.wave.where(other)} {state}"
        )


assert set(CONTROL + ORDERING) & set(DECODERS) == {"bar"}  # bar.warp
