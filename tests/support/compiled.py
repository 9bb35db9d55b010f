"""Compilers, whose results are kept: the same command on the same sources is run once on a machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rcgm-tests"
DAYS_KEPT = 14


@dataclass(frozen=True)
class Compilation:
    """``[*command, "-o", target]``.

    Its result depends on the compiler, on ``inputs``, the files that it reads of the project, and on ``libraries``, the
    names and versions of what else it reads.
    """

    command: tuple[str, ...]
    target: Path
    inputs: tuple[Path, ...]
    libraries: str = ""

    def key(self) -> str:
        words = (_version(self.command[0]), self.libraries, *self.command)
        content = hashlib.sha256("\0".join(words).replace(str(ROOT), "").encode())
        for path in sorted(self.inputs):
            content.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        return content.hexdigest()

    def make(self) -> str:
        """Write the target, and return what the compiler said."""
        kept = CACHE / self.key()
        CACHE.mkdir(parents=True, exist_ok=True)
        with _locked(CACHE / f"lock-{kept.name[:2]}"):  # other processes wait instead of compiling the same
            if not kept.is_dir():
                folder = Path(tempfile.mkdtemp(dir=CACHE))
                (folder / "said").write_text(run([*self.command, "-o", str(folder / "result")]))
                folder.rename(kept)
        os.utime(kept)
        shutil.copyfile(kept / "result", self.target)
        return (kept / "said").read_text()


def make_all(compilations: Iterable[Compilation]) -> list[str]:
    """Make them in parallel, in the order given."""
    for old in CACHE.glob("*"):
        if old.stat().st_mtime < time.time() - DAYS_KEPT * 86400:
            shutil.rmtree(old, ignore_errors=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(Compilation.make, compilations))


def run(command: list[str], folder: Path | None = None) -> str:
    """What a command says; ``folder`` is its working directory."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _version(compiler: str) -> str:
    return run([compiler, "--version"])
