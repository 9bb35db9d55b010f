"""What an installation says that finds no compiler, or one that is called in an unusual way."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setup():
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup_under_test")


def build(tmp_path, **variables):
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        str(tmp_path),
        "--build-temp",
        str(tmp_path),
    ]
    environment = {**os.environ, "RCGM_CUDA": "0", **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "ccache-that-is-not-there g++", "/no/such/g++"])
def test_without_a_compiler_the_advice_appears(tmp_path, compiler):
    done = build(tmp_path, CXX=compiler)
    assert done.returncode != 0
    assert f"The compiler '{compiler.split()[0]}' cannot be started" in done.stderr
    assert "What to do: install a C++17 compiler (on Debian: apt install build-essential), or set CXX" in done.stderr


def test_without_the_usual_compiler_the_advice_appears(tmp_path):
    environment = dict.fromkeys(("CXX", "CC"), "")
    done = build(tmp_path, PATH=str(tmp_path), **environment)
    assert done.returncode != 0 and "What to do: install a C++17 compiler" in done.stderr


def test_a_compiler_that_cannot_build_is_named_with_what_it_said(tmp_path, setup):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(
        setup["BuildError"], match=r"building an empty program failed(.|\n)*no headers here(.|\n)*apt install"
    ):
        setup["supported"]([str(broken)], ["-O3"])


def test_a_launcher_goes_before_the_compiler(tmp_path, setup, monkeypatch):
    launcher = tmp_path / "ccache"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"{launcher} g++")
    command = setup["cxx_command"]("unused")
    assert command == [str(launcher), "g++"]
    assert setup["supported"](command, ["-O3", "-fno-such-flag"]) == ["-O3"]
    assert setup["without_launcher"](command) == "g++"
    monkeypatch.delenv("CXX")
    assert setup["cxx_command"]("c++") == ["c++"] and setup["without_launcher"](["c++"]) == "c++"


def test_windows_is_told_where_it_builds(setup, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(setup["BuildError"], match="WSL 2"):
        setup["extensions"]()
