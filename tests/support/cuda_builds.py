"""What the CUDA extension is built from, for tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.compiled import Compilation

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"), key=lambda source: -source.stat().st_size)  # slowest first
HEADERS = tuple(path for path in (ROOT / "csrc").rglob("*.*") if path.suffix in (".h", ".cuh"))
EMULATION = ROOT / "tests" / "rcgm_kernels" / "cuda_emulation"


def host_compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return compiler


def nvcc() -> str:
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    beside = (home / "bin" / "nvcc" for home in homes)
    compiler = next((str(path) for path in beside if path.exists()), shutil.which("nvcc"))
    if compiler is None:
        pytest.skip("no nvcc")
    return compiler


def compilations(
    folder: Path, command: Sequence[str], sources: Iterable[Path] = SOURCES, headers: Sequence[Path] = HEADERS
) -> list[Compilation]:
    """A compilation of each source into an object in ``folder``."""
    return [
        Compilation((*command, "-c", str(source)), folder / f"{source.stem}.o", (source, *headers))
        for source in sources
    ]


def built_extension() -> Path:
    """The extension that setup.py has built, with machine code for all architectures.

    Without nvcc there is none and nothing to read: where setup.py finds nvcc, it builds the extension or fails.
    """
    spec = importlib.util.find_spec("rcgm_kernels._cuda")
    if spec is None:
        pytest.skip("rcgm_kernels._cuda is built where nvcc is found")
    return Path(spec.origin)


def bindings(target: Path, *flags: str) -> Compilation:
    pybind11 = pytest.importorskip("pybind11")
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    source = ROOT / "csrc" / "cuda" / "bindings.cpp"
    command = (host_compiler(), "-std=c++17", "-fPIC", *flags, *includes, "-c", str(source))
    return Compilation(command, target, (source, *HEADERS), f"Python {sys.version}, pybind11 {pybind11.__version__}")


def load_extension(path: Path) -> ModuleType:
    """The extension at ``path``; pybind11 keeps modules by name, so each path has one of its own."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.as_posix().replace('.', '_')}._cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
