"""Effect of the number format of the target forwards, and of the step of the difference, on training.

    python -m benchmarks.target_formats               digits under bfloat16 autocast, 3 seeds of each, about 20 minutes
    python -m benchmarks.target_formats --steps 5 --seeds 1 --name trial         to see that it runs

RCGM of order 2 evaluates its segments, and in the rows "base too" also the base of its residual, in the format of the
row; MeanFlow its two difference evaluations. The number is the Frechet distance of 1-step samples of the averaged
network, sampled in float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.objectives import TASKS
from benchmarks.training import measure, train

FORMATS = ("bfloat16", "float16", "float32")
TASK = replace(TASKS["digits"], autocast=torch.bfloat16)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "RCGM-2, dt 0.01": ("rcgm", {"dt": 0.01, "times": {"equal": 0.25}}),
    "RCGM-2, dt 0.05": ("rcgm", {"dt": 0.05, "times": {"equal": 0.25}}),
    "MeanFlow, step 0.005": ("mean_flow", {"derivative": {"name": "central", "step": 0.005}}),
    "MeanFlow, step chosen": ("mean_flow", {"derivative": "auto"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="training steps of each run (800)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (3)")
    parser.add_argument("--name", default="target_formats", help="name of the result file (target_formats)")
    arguments = parser.parse_args()
    jobs = [
        (method, number_format, seed, arguments.steps)
        for number_format in sorted(FORMATS, key=lambda name: name != "float16")  # the slowest on a CPU first
        for method in METHODS
        for seed in range(arguments.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        runs = list(tqdm(pool.imap(run, jobs, chunksize=1), total=len(jobs), unit="run"))
    rows = []
    for method in METHODS:
        for number_format in FORMATS:
            same = [run for run in runs if (run["method"], run["format"]) == (method, number_format)]
            values = [run["frechet_distance"] for run in same]
            spread = statistics.stdev(values) if len(values) > 1 else None
            rows.append({"method": method, "format": number_format, "mean": statistics.mean(values), "spread": spread})
            print(f"{method:<24} {number_format:<10} {rows[-1]['mean']:.3f}  spread {spread}")
    described = environment.describe(torch.device("cpu"))
    result = {"environment": described, "steps": arguments.steps, "rows": rows, "runs": runs}
    print(f"written to {environment.write(arguments.name, result)}")


def run(job: tuple[str, str, int, int]) -> dict[str, Any]:
    """Train and measure once."""
    method, number_format, seed, steps = job
    objective, arguments = METHODS[method]
    trained = train(TASK, objective, {**arguments, "target_dtype": number_format}, steps, seed=seed)
    measured = measure(TASK, trained, (1,), seed)["1"]
    return {"method": method, "format": number_format, "seed": seed, **measured, **trained.costs}


if __name__ == "__main__":
    main()
