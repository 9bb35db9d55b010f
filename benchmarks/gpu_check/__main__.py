"""Everything that needs a GPU, in three commands of under ten minutes each, from a bare clone.

    python -m benchmarks.gpu_check a            build; accuracy and speed of the kernels; memory checker
    python -m benchmarks.gpu_check b            build; training steps of DiT-XL/2: order 2 beside differences and JVP
    python -m benchmarks.gpu_check c            build; trainings by rcgm, capacity, tests, race checker
    python -m benchmarks.gpu_check a --resume   only the steps that have not succeeded at this commit
    python -m benchmarks.gpu_check a --dry-run  the same steps, small, on a machine without a GPU; results go to
                                                build/gpu_check_dry_run

Each part is complete in itself. Every step has a limit, and all of them together ``--seconds``: what is late is
stopped, with all its processes, and the next begins. gpu_check_PART.json is written after each step, and the result
files of the steps as they measure, so that a run that is cut short leaves what it had. RCGM_BENCHMARK_RESULTS names
another folder for all of them, RCGM_COMMIT the commit where there is no repository.

The build is not isolated, so that it works without a network: setuptools and pybind11 must be there, pytest and
hypothesis for the tests, and for training what `pip install '.[train]'` brings; jvp-flash-attention is optional. What
is missing may also lie in a folder that ``PYTHONPATH`` names (wheels unpacked by `python -m zipfile -e WHEEL FOLDER`).
With ``--built`` the extensions that lie in rcgm_kernels/ are used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.gpu_check.running import run_all
from benchmarks.gpu_check.steps import PARTS, steps


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dry-run", action="store_true", help="go through the steps without a GPU")
    parser.add_argument("--resume", action="store_true", help="leave out what has succeeded at this commit")
    parser.add_argument("--built", action="store_true", help="leave out the build")
    parser.add_argument("--only", nargs="+", default=None, help="names of steps")
    parser.add_argument("--seconds", type=float, default=530.0, help="for all steps together (530)")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not given.dry_run:
        raise SystemExit("no GPU that torch can use was found; --dry-run goes through the steps without one")
    known = [step for step in steps(given.part, given.dry_run) if not (given.built and step.name == "build")]
    names = [step.name for step in known]
    if given.only is not None and (unknown := set(given.only) - set(names)):
        parser.error(f"--only must name some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    wanted = [step for step in known if given.only is None or step.name in given.only]
    sys.exit(run_all(given.part, wanted, dry_run=given.dry_run, resume=given.resume, seconds=given.seconds))


if __name__ == "__main__":
    main()
