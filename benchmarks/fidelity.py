"""How far the derivative along the path is from the truth, by network, number format, estimator and step.

python -m benchmarks.fidelity              trains the network of the digits for 400 steps first
python -m benchmarks.fidelity --run DIR    takes that of a run of the digits

Relative error of ``dF/dt`` over a batch against forward-mode AD in float64. The networks are the two random ones of
math.md section 6 and one that is trained on digits, with ``t`` in [0.25, 0.75] and ``r = 0.3 t``; and that one at all
the times that training draws, near the ends of [0, 1] and with ``r`` close to ``t``. There the error is that of
``(t - r) dF/dt``, as it stands in the residuals: without the factor a single sample of 64, with ``t = 0.008``, is most
of it.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import environment
from benchmarks.fidelity_problems import Problem, digits_problem, random_problem, with_exact
from benchmarks.random_dit import Dithered, to_nearest
from rcgm.config import build_dataset_from, load_config
from rcgm.derivatives import Auto, Central, Estimator, ForwardMode, OneSided
from rcgm.engine import Engine
from rcgm.engine.queries import Queries, Query
from rcgm.objectives.times import knots
from rcgm.runs.loading import load_run
from rcgm.training import train

CPU = torch.device("cpu")
FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
STEPS = [0.25 * 2 ** (-i / 2) for i in range(17)]
"""Twice a step is a step, so that a stencil of order 4 asks for nothing that the others have not asked for."""
FEW_STEPS = STEPS[1:9]
GAPS = (0.01, 0.02, 0.05, 0.1, 0.2)


class Remembered:
    """A network that is not asked twice about the same sample."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._known: dict[tuple[float, float, bytes], Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor | None) -> Tensor:
        keys = [(*times, sample.numpy().tobytes()) for *times, sample in zip(t.tolist(), r.tolist(), x, strict=True)]
        missing = [row for row, key in enumerate(keys) if key not in self._known]
        if missing:
            asked = torch.tensor(missing)
            outputs = self._network(x[asked], t[asked], r[asked], None if cond is None else cond[asked])
            self._known.update((keys[row], output) for row, output in zip(missing, outputs, strict=True))
        return torch.stack([self._known[key] for key in keys])


def measured(problem: Problem, other: Problem, dtype: torch.dtype) -> dict[str, Any]:
    """One format of one problem. ``auto`` measures at the points of ``other`` and is judged at those of ``problem``."""
    network = Remembered(problem.network)
    families: dict[str, Callable[[float], Estimator]] = {
        "central": Central,
        "central, order 4": lambda step: Central(step, 4),
        "one-sided": OneSided,
    }
    sweeps = {}
    for name, family in families.items():
        steps = [step for step in STEPS if name != "central, order 4" or step <= 0.125]
        sweeps[name] = {f"{step:.4g}": problem.error(network, family(step), dtype) for step in steps}
    best = {name: min(sweep.items(), key=lambda item: item[1]) for name, sweep in sweeps.items()}
    row: dict[str, Any] = {
        "sweeps": sweeps,
        "best": {name: {"step": float(step), "error": error} for name, (step, error) in best.items()},
        "papers_step": problem.error(network, Central(0.005), dtype),
        "forward_mode": problem.error(problem.network, ForwardMode(), dtype),
        "auto_at_its_first_call": problem.error(network, Auto(), dtype),
    }
    elsewhere = Remembered(other.network)
    for label, options in (("auto", {}), ("auto, one range of time", {"bins": 1}), ("auto, 4", {"evaluations": 4})):
        estimator = Auto(**options)
        other.answered(elsewhere, estimator, dtype)
        estimator.state().calls = 3  # between two measurements
        error = problem.error(network, estimator, dtype)
        report = {name: value.item() for name, value in estimator.report().items()}
        row[label] = {"error": error, **report}
    row["auto_to_best"] = row["auto"]["error"] / row["best"]["central"]["error"]
    if problem.weight is not None:
        row["without_weight"] = unweighted(replace(problem, weight=None), other, network, elsewhere, dtype)
    return row


def unweighted(
    problem: Problem, other: Problem, network: Remembered, elsewhere: Remembered, dtype: torch.dtype
) -> dict[str, float]:
    """``auto`` and the best fixed step by the error of ``dF/dt`` itself."""
    estimator = Auto()
    other.answered(elsewhere, estimator, dtype)
    estimator.state().calls = 3
    best = min(problem.error(network, Central(step), dtype) for step in STEPS)
    return {"best": best, "auto": problem.error(network, estimator, dtype)}


def roundings(name: str) -> dict[str, dict[str, float]]:
    """What else might lower the error of a central difference in bfloat16: best over steps, by way to round."""
    plain = with_exact(random_problem(name))
    ways: dict[str, tuple[dict[str, Any], torch.dtype]] = {
        "as it is": ({}, torch.bfloat16),
        "tokens in bfloat16": ({"stream": torch.bfloat16}, torch.bfloat16),
        "condition in float32": ({"full_condition": True}, torch.bfloat16),
        "emulated, to nearest": ({"rounding": to_nearest}, torch.float32),
        "emulated, dithered": ({"rounding": Dithered(shared=False)}, torch.float32),
        "emulated, dithered, shared by both points": ({"rounding": Dithered(shared=True)}, torch.float32),
    }
    result = {}
    for label, (options, dtype) in ways.items():
        network = random_problem(name, **options).network
        steps = FEW_STEPS if dtype == torch.bfloat16 else FEW_STEPS[1:7]
        errors = {step: plain.error(network, Central(step), dtype) for step in steps}
        step = min(errors, key=errors.__getitem__)
        result[label] = {"step": step, "error": errors[step]}
    return result


def recursive_residual(problem: Problem, dt: float, base: torch.dtype, segments: torch.dtype) -> Tensor:
    """``zeta`` of order 2 by rollout, in float64 sums, of forwards in the given formats."""
    exact = base == torch.float64
    network = copy.deepcopy(problem.network).double() if exact else problem.network
    number = torch.float64 if exact else torch.float32
    x, velocity, t, r = (getattr(problem, name).to(number) for name in ("x", "velocity", "t", "r"))
    times = knots(t, r, dt, 2)

    def predicted(x: Tensor, start: Tensor, end: Tensor, dtype: torch.dtype) -> Tensor:
        def queries() -> Queries[Any]:
            return (yield [Query(x, start, end)])

        engine = Engine({"target": network}, problem.cond, dtype=None if exact else dtype)
        return engine.run(queries())[0]

    def length(i: int) -> Tensor:
        return (times[i] - times[i + 1]).double().reshape(-1, *[1] * (x.ndim - 1))

    whole = (t - r).double().reshape(length(0).shape)
    total = whole * predicted(x, t, r, base).double()
    state = x.double() - length(0) * velocity.double()
    for i in (1, 2):
        answer = predicted(state.to(number), times[i], times[i + 1], segments).double()
        total -= length(i) * answer
        state -= length(i) * answer
    return total / length(0) - velocity.double()


def gaps(problem: Problem) -> dict[str, dict[str, float]]:
    """Root-mean-square of RCGM's ``zeta`` and of its rounding, by ``dt``.

    There is no curvature to balance the rounding against: ``zeta`` is how much longer and shorter steps of the network
    disagree, over ``dt``, so that both fall alike as ``dt`` grows.
    """
    kept = problem.t - problem.r > max(GAPS)
    names = ("x", "velocity", "t", "r", "cond")
    problem = replace(problem, **{name: getattr(problem, name)[kept] for name in names})

    def size(tensor: Tensor) -> float:
        return tensor.square().mean().sqrt().item()

    half, sixteen, double = torch.bfloat16, torch.float16, torch.float64
    rows = {}
    for dt in GAPS:
        exact = recursive_residual(problem, dt, double, double)
        rows[str(dt)] = {
            "size": size(exact),
            "rounding, all bfloat16": size(recursive_residual(problem, dt, half, half) - exact),
            "rounding, segments float16": size(recursive_residual(problem, dt, half, sixteen) - exact),
            "rounding, base and segments float16": size(recursive_residual(problem, dt, sixteen, sixteen) - exact),
        }
    return rows


def trained(run: Path | None, folder: Path) -> tuple[nn.Module, Any, int]:
    """The student of a run of the digits, its data, and its steps."""
    if run is None:
        run = folder / "digits"
        quiet = ["steps=400", "sample.every=0", "evaluate.at_end=false", "checkpoint.every=400"]
        train(load_config("configs/digits.yaml", quiet), run, show_progress=False)
    loaded = load_run(run, device=CPU, weights="student")
    return loaded.network, build_dataset_from(loaded.config), loaded.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a trained run of the digits (default: trains one)")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        network, dataset, steps = trained(arguments.run, Path(folder))
    pairs = [(random_problem(name), random_problem(name, seed=2)) for name in ("low", "high")]
    pairs += [
        tuple(digits_problem(network, dataset, everywhere=everywhere, seed=seed) for seed in (1, 2))
        for everywhere in (False, True)
    ]
    cases = []
    for problem, other in pairs:
        problem = with_exact(problem)
        for name, dtype in FORMATS.items():
            case = {"problem": problem.name, "format": name, **measured(problem, other, dtype)}
            cases.append(case)
            best = case["best"]["central"]
            print(
                f"{problem.name:18} {name:9} central {best['error']:.4f} at {best['step']:.4f} (0.005: "
                f"{case['papers_step']:.4f})  auto {case['auto']['error']:.4f} ({case['auto_to_best']:.2f} of best)  "
                f"auto with 4 {case['auto, 4']['error']:.4f}  jvp {case['forward_mode']:.4f}",
                flush=True,
            )
    result = {
        "environment": environment.describe(CPU),
        "trained_steps": steps,
        "cases": cases,
        "roundings": {name: roundings(name) for name in ("low", "high")},
        "gaps": gaps(digits_problem(network, dataset, everywhere=True)),
        "seconds": time.perf_counter() - began,
    }
    print(f"written to {environment.write('fidelity', result)} in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
