"""PTX text as kernels: parameters, shared variables, registers and instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from tests.support.ptx.faults import UnknownInstructionError

SIZES = {"pred": 1} | {f"{letter}{8 * size}": size for letter in "bus" for size in (1, 2, 4, 8)} | {"f32": 4, "f64": 8}
SIZES |= {"f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4}
NAME = r"[%$]?[A-Za-z_$][\w$]*"
VARIABLE = re.compile(rf"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s.*?)?({NAME})\s*(?:\[(\d*)\])?$", re.S)


@dataclass(frozen=True)
class Instruction:
    """``@guard name.modifiers operands``; operands are still text, without blanks."""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    text: str

    @property
    def type(self) -> str:
        return self.modifiers[-1]


@dataclass
class Code:
    """The body of a kernel or function."""

    name: str
    parameters: dict[str, tuple[int, int]]  # offset and size in bytes
    results: list[str]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)  # of declared registers; of ranges by the prefix
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)  # alignment and size; -1: of the launch

    @property
    def parameter_bytes(self) -> int:
        return max((offset + size for offset, size in self.parameters.values()), default=0)

    def type_of(self, name: str) -> str | None:
        """The declared type of a register; None where that is no register."""
        return self.types.get(name) or self.types.get(re.sub(r"\d+(?=#|$)", "", name, count=1))


class Module:
    """A PTX file. Kernels are parsed when they are asked for."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
        text = re.sub(r"\n\s*\.section\b.*", "", text, flags=re.S)  # debug information, which comes last
        self._text = re.sub(r"\n[ \t]*\.(?:loc|file)\b[^\n]*", "", text)
        self._starts = {
            found[3]: found
            for found in re.finditer(
                rf"\.(entry|func)\s+(?:\(([^)]*)\)\s*)?({NAME})\s*\(([^)]*)\)([^{{;]*)\{{", self._text, re.S
            )
        }
        self.kernels = [name for name, found in self._starts.items() if found[1] == "entry"]
        self._outside = self._text[: min((found.start() for found in self._starts.values()), default=0)]

    def kernel(self, name: str) -> Code:
        """The kernel with the functions it calls inlined."""
        code = self._code(name)
        for found in re.finditer(r"\.(?:extern\s+)?\.?shared\s+([^;]*);", self._outside):
            alignment, size, variable = _variable(found[1])
            code.shared[variable] = (alignment, size)
        return self._inlined(code)

    def _code(self, name: str) -> Code:
        found = self._starts[name]
        code = Code(name, _parameters(found[4]), [_variable(part)[2] for part in _parts(found[2] or "", ".param")])
        if found[1] == "func":
            declared = [*_parts(found[4], ".param"), *_parts(found[2] or "", ".param")]
            code.types |= {_variable(part)[2]: VARIABLE.match(part)[2] for part in declared}
        _Body(self._text, found.end()).read(code)
        return code

    def _inlined(self, code: Code) -> Code:
        calls = [index for index, each in enumerate(code.instructions) if each.name == "call"]
        for number, index in reversed(list(enumerate(calls))):
            _inline(code, index, self._inlined(self._code(code.instructions[index].operands[1])), f"#call{number}")
        return code


class _Body:
    """Reads the statements between braces; what is declared in an inner pair of braces gets a name of its own."""

    def __init__(self, text: str, start: int) -> None:
        self.text, self.position = text, start
        self.scopes: list[dict[str, str]] = [{}]
        self.inner = 0

    def read(self, code: Code) -> None:
        while self.scopes:
            rest = re.compile(rf"\s*(?:([{{}}])|({NAME}):(?!:)|([^;{{}}]*(?:\{{[^}}]*\}}[^;{{}}]*)*);)").match(
                self.text, self.position
            )
            if rest is None:
                raise UnknownInstructionError(" ".join(self.text[self.position : self.position + 80].split()))
            self.position = rest.end()
            if rest[1] == "{":
                self.inner += 1
                self.scopes.append({})
            elif rest[1] == "}":
                self.scopes.pop()
            elif rest[2]:
                code.labels[rest[2]] = len(code.instructions)
            elif rest[3].startswith("."):
                self._declare(rest[3], code)
            elif rest[3].strip():
                code.instructions.append(_instruction(self._renamed(" ".join(rest[3].split()))))

    def _declare(self, statement: str, code: Code) -> None:
        kind, _, rest = statement[1:].partition(" ") if " " in statement else (statement[1:], "", "")
        kind = kind.split()[0]
        if kind == "pragma":
            return
        if kind == "shared":
            alignment, size, name = _variable(rest)
            code.shared[name] = (alignment, size)
        elif kind in ("reg", "param"):
            type_name, _, names = rest.strip().partition(" ")
            for name in names.split(","):
                self._declare_register(name.strip(), type_name[1:], code)
        else:
            raise UnknownInstructionError(statement)

    def _declare_register(self, name: str, type_name: str, code: Code) -> None:
        found = re.fullmatch(rf"({NAME})(?:<\d+>)?", name)
        if found is None or type_name not in SIZES:
            raise UnknownInstructionError(f".reg .{type_name} {name}")
        own = found[1]
        if len(self.scopes) > 1:
            own = f"{own}#{self.inner}"
            self.scopes[-1][found[1]] = own
        code.types[own] = type_name

    def _renamed(self, statement: str) -> str:
        inner = {}
        for scope in self.scopes:
            inner |= scope
        return re.sub(NAME, lambda found: inner.get(found[0], found[0]), statement) if inner else statement


def _instruction(statement: str) -> Instruction:
    found = re.fullmatch(rf"(?:@(!?)\s*({NAME}(?:#\w+)*)\s+)?([a-z][\w.:]*)\s*(.*)", statement)
    if found is None:
        raise UnknownInstructionError(statement)
    name, *modifiers = found[3].split(".")
    operands = tuple(
        part.replace(" ", "") for part in re.findall(r"(?:[^,{\[(]|\{[^}]*\}|\[[^\]]*\]|\([^)]*\))+", found[4])
    )
    return Instruction(name, tuple(modifiers), operands, found[2], found[1] == "!", statement)


def _inline(code: Code, index: int, function: Code, suffix: str) -> None:
    """Put the body of a function in the place of instruction ``index``, with names of its own."""
    results, _, arguments = code.instructions[index].operands
    given = dict(zip(function.parameters, arguments.strip("()").split(","), strict=True))
    given |= dict(zip(function.results, results.strip("()").split(","), strict=True))
    own = {name: name + suffix for name in function.labels}

    def renamed(text: str) -> str:
        def of(found: re.Match[str]) -> str:
            name = found[0]
            if name in given or name in own:
                return given.get(name) or own[name]
            return name + suffix if function.type_of(name) else name

        return re.sub(rf"{NAME}(?:#\w+)*", of, text)

    end = f"end{suffix}"
    body = []
    for each in function.instructions:
        if each.name == "ret":
            each = replace(each, name="bra", modifiers=("uni",), operands=(end,))
        operands = tuple(renamed(operand) if operand != end else end for operand in each.operands)
        body.append(replace(each, operands=operands, guard=each.guard and renamed(each.guard)))
    grown = len(body) - 1
    code.labels = {name: at + grown if at > index else at for name, at in code.labels.items()}
    code.labels |= {name + suffix: at + index for name, at in function.labels.items()} | {end: index + len(body)}
    code.instructions[index : index + 1] = body
    code.types |= {name + suffix: type_name for name, type_name in function.types.items()}


def _parameters(text: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each parameter."""
    parameters, end = {}, 0
    for part in _parts(text, ".param"):
        alignment, size, name = _variable(part)
        offset = -(-end // alignment) * alignment
        parameters[name] = (offset, size)
        end = offset + size
    return parameters


def _parts(text: str, space: str) -> list[str]:
    return [part.strip().removeprefix(space).strip() for part in text.split(",") if part.strip()]


def _variable(text: str) -> tuple[int, int, str]:
    """Alignment, size in bytes (-1: as the launch says) and name of ``.align 8 .b8 name[16]`` and the like."""
    found = VARIABLE.match(text.strip())
    if found is None or found[2] not in SIZES:
        raise UnknownInstructionError(text.strip())
    size = SIZES[found[2]]
    total = size if found[4] is None else (size * int(found[4]) if found[4] else -1)
    return int(found[1] or size), total, found[3]
