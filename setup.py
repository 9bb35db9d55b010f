"""Build of the native kernels: `pip install .`, isolated, without torch.

``rcgm_kernels._cpu`` is always built. ``rcgm_kernels._cuda`` is built where nvcc is found. Environment:

RCGM_CUDA        auto (default): build for CUDA if nvcc is found; 1: fail if it is not; 0: do not
RCGM_CUDA_ARCHS  compute capabilities separated by commas, such as "90" or "80,90,100"; the default is what the toolkit
                 knows of 80, 90, 100 and 120, and PTX of the last for newer devices
CUDA_HOME        the CUDA toolkit, if nvcc is not on the PATH
CXX, NVCC        the compilers; CXX may begin with a launcher, as in "ccache g++"
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = Path("csrc")
OBJECTS = Path("build") / "objects"
X86_64 = platform.machine().lower() in ("x86_64", "amd64")
ISA_FLAGS = {"baseline": []} | (
    {
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    }
    if X86_64
    else {}
)
# Residuals must keep NaN and infinity, so no -ffast-math; the two options after -fopenmp alone let the loops vectorise.
# The one after them keeps short loops: `rep movs` and `rep stos` take longer to start than such a loop to run.
CPU_FLAGS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-tree-loop-distribute-patterns"]
CPU_FLAGS += ["-fvisibility=hidden"]
LAUNCHERS = ("ccache", "sccache", "distcc")
INSTALL_COMPILER = "install a C++17 compiler (on Debian: apt install build-essential), or set CXX to one"
WANTED_CUDA_ARCHS = ("80", "90", "100", "120")


class BuildError(RuntimeError):
    """A failed build, with what to do about it."""


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a compiler to its end; if it cannot be started, say what helps."""
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(
            f"\nThe compiler {command[0]!r} cannot be started: {error}\nWhat to do: {INSTALL_COMPILER}\n"
        ) from error


def cxx_command(compiler: str) -> list[str]:
    """The words of the C++ compiler: CXX, which may be several, or else `compiler`."""
    return shlex.split(os.environ.get("CXX", "")) or [compiler]


def without_launcher(cxx: list[str]) -> str:
    """The compiler itself, for nvcc, which takes one program."""
    return next((word for word in cxx if Path(word).name not in LAUNCHERS), cxx[0])


def run(command: list[str], what: str, advice: str) -> str:
    """Run a compiler; if it fails, say what was being done and what helps."""
    done = started(command)
    if done.returncode:
        raise BuildError(f"\n{what} failed.\n  {' '.join(command)}\n{done.stdout}{done.stderr}\nWhat to do: {advice}\n")
    return done.stdout


def find_nvcc() -> str | None:
    """The CUDA compiler that CUDA_HOME, NVCC or the PATH names, or None."""
    if os.environ.get("NVCC"):
        return os.environ["NVCC"]
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    beside = [Path(home) / "bin" / "nvcc" for home in homes if home]
    return next((str(path) for path in beside if path.exists()), shutil.which("nvcc"))


def wanted_nvcc() -> str | None:
    """nvcc if the CUDA extension is to be built."""
    wish = os.environ.get("RCGM_CUDA", "auto").lower()
    if wish not in ("auto", "0", "1"):
        raise BuildError(f"RCGM_CUDA must be auto, 0 or 1, got {wish!r}")
    if wish == "0":
        return None
    nvcc = find_nvcc()
    if nvcc is None and wish == "1":
        raise BuildError("RCGM_CUDA=1, but no nvcc was found: install a CUDA toolkit, or set CUDA_HOME or NVCC")
    return nvcc


def cuda_archs(nvcc: str) -> list[str]:
    """The compute capabilities to build for."""
    wish = os.environ.get("RCGM_CUDA_ARCHS")
    if wish:
        archs = [arch.strip().replace(".", "") for arch in re.split(r"[,; ]+", wish) if arch.strip()]
        for arch in archs:
            if not re.fullmatch(r"\d{2,3}[af]?", arch):
                raise BuildError(f"RCGM_CUDA_ARCHS must look like 80,90,100, got {wish!r}")
        return archs
    known = run([nvcc, "--list-gpu-arch"], "asking nvcc for its architectures", "set RCGM_CUDA_ARCHS, or RCGM_CUDA=0")
    return [arch for arch in WANTED_CUDA_ARCHS if f"compute_{arch}" in known.split()]


def gencode(archs: list[str]) -> list[str]:
    """nvcc flags: machine code for each architecture, and PTX of the last for what comes later."""
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


def supported(cxx: list[str], flags: list[str]) -> list[str]:
    """Those of `flags` that the compiler takes (clang on macOS has no -fopenmp of its own)."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text("int main() { return 0; }\n", encoding="utf-8")

        build = [*cxx, str(probe), "-o", str(Path(folder) / "probe")]
        run(build, "building an empty program", INSTALL_COMPILER)
        return [flag for flag in flags if started([*build, "-Werror", flag]).returncode == 0]


def digest_of(folders: list[Path], compilers: list[list[str]]) -> str:
    """A hash of all sources in `folders` and of the versions of the compilers."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    for compiler in compilers:
        digest.update(started([*compiler, "--version"]).stdout.encode())
    return digest.hexdigest()


def compile_once(sources: str, target: Path, command: list[str], what: str, advice: str) -> Path:
    """Run `command`, which writes `target`, unless it has been run on the same `sources` before; the object file."""
    key = hashlib.sha256(f"{sources} {command}".encode()).hexdigest()[:16]
    done = target.with_name(f"{target.stem}-{key}.o")
    if not done.exists():
        fresh = target.with_name(f"{done.name}.{os.getpid()}")
        run([*command, "-o", str(fresh)], what, advice)
        for old in target.parent.glob(f"{target.stem}-*.o"):
            old.unlink(missing_ok=True)
        fresh.replace(done)  # a build that is stopped leaves no half of an object behind
    return done


class BuildKernels(build_ext):
    """Compiles the CPU kernels once for each instruction set, and CUDA sources with nvcc, all in parallel.

    Objects are kept in build/objects, so that another build of the same sources compiles nothing again.
    """

    def build_extension(self, ext: Pybind11Extension) -> None:
        self.cxx = cxx_command(self.compiler.compiler_cxx[0])
        folder = OBJECTS / ext.name
        folder.mkdir(parents=True, exist_ok=True)
        on_cpu = ext.name.endswith("_cpu")
        jobs = self._cpu_jobs(folder) if on_cpu else self._cuda_jobs(folder)
        own = [CSRC / "common", CSRC / ("cpu" if on_cpu else "cuda")]
        sources = digest_of(own, [self.cxx] if on_cpu else [self.cxx, [wanted_nvcc()]])
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = [str(path) for path in pool.map(lambda job: compile_once(sources, *job), jobs)]
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        advice = "check that the compiler can link shared libraries (on Debian: apt install build-essential)"
        link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        run([*self.cxx, "-shared", *link, *objects, *self.link_flags, "-o", str(output)], f"linking {ext.name}", advice)

    def _bindings_job(self, source: Path, target: Path, flags: list[str]) -> tuple:
        includes = [f"-I{path}" for path in self._include_dirs()]
        command = [*self.cxx, "-std=c++17", "-fPIC", *flags, *includes, "-c", str(source)]
        advice = "a C++17 compiler and Python's headers are needed (on Debian: apt install build-essential python3-dev)"
        return target, command, f"compiling {source}", advice

    def _include_dirs(self) -> list[str]:
        return [*self.include_dirs, *self.extensions[0].include_dirs]

    def _cpu_jobs(self, folder: Path) -> list[tuple]:
        flags = supported(self.cxx, CPU_FLAGS)
        self.link_flags = supported(self.cxx, ["-fopenmp", "-s"])
        jobs = [self._bindings_job(CSRC / "cpu" / "bindings.cpp", folder / "bindings.o", flags)]
        jobs.append(self._bindings_job(CSRC / "cpu" / "dispatch.cpp", folder / "dispatch.o", flags))
        for isa, isa_flags in ISA_FLAGS.items():
            source, target = CSRC / "cpu" / "kernels.cpp", folder / f"kernels_{isa}.o"
            jobs.append(self._bindings_job(source, target, [*flags, *isa_flags, f"-DRCGM_ISA={isa}"]))
        return jobs

    def _cuda_jobs(self, folder: Path) -> list[tuple]:
        nvcc = wanted_nvcc()
        archs = cuda_archs(nvcc)
        libraries = [Path(nvcc).resolve().parent.parent / name for name in ("lib64", "lib")]
        self.link_flags = [f"-L{path}" for path in libraries if path.exists()]
        self.link_flags += ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-s"]
        self.include_dirs = [*self.include_dirs, str(Path(nvcc).resolve().parent.parent / "include")]
        jobs = [
            self._bindings_job(CSRC / "cuda" / "bindings.cpp", folder / "bindings.o", ["-O2", "-fvisibility=hidden"])
        ]
        advice = (
            "set RCGM_CUDA_ARCHS to what your GPU needs (nvidia-smi --query-gpu=compute_cap --format=csv), "
            "or RCGM_CUDA=0 to install without CUDA kernels"
        )
        for source in sorted((CSRC / "cuda").glob("*.cu")):
            target = folder / f"{source.stem}.o"
            command = [nvcc, "-O3", "-std=c++17", "-Xcompiler=-fPIC", "-lineinfo", *gencode(archs)]
            command += ["-ccbin", without_launcher(self.cxx), "-c", str(source)]
            jobs.append((target, command, f"compiling {source} for compute capabilities {', '.join(archs)}", advice))
        return jobs


def extensions() -> list[Pybind11Extension]:
    if sys.platform == "win32":
        raise BuildError(
            "rcgm_kernels is compiled by GCC or Clang, on Linux and macOS: on Windows, install it in WSL 2 "
            "(`wsl --install`, then `pip install .` there)"
        )
    modules = [Pybind11Extension("rcgm_kernels._cpu", [str(CSRC / "cpu" / "bindings.cpp")])]
    if wanted_nvcc():
        modules.append(Pybind11Extension("rcgm_kernels._cuda", [str(CSRC / "cuda" / "bindings.cpp")]))
    return modules


if __name__ == "__main__":
    os.chdir(ROOT)
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
