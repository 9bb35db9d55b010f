"""Orders of RCGM against decays of the average, on the digits: figure 3 of the paper, in small.

    python -m benchmarks.orders     120 runs of 1,000 steps, an hour on two cores
    python -m benchmarks.orders --steps 5 --seeds 1 --name trial    to see that it runs

All runs of a seed train the same network on the same batches; only order, decay and first gap differ. The target
network is the average, and the average is sampled in one step. The first gap is 0.1, or a share alpha of the interval
that falls from 1 along alpha-Flow's schedule. A command that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.objectives import TASKS
from benchmarks.order_tables import CELLS, Cell, cell_of
from benchmarks.training import measure, train
from rcgm.evaluation.checks import NotFiniteError

SAMPLING_STEPS = (1, 2)
DT, EQUAL = 0.1, 0.25
"""First gap, and share of the samples with ``r = t``, as in ``benchmarks.objectives``."""

Job = tuple[Cell, int, int]
"""Order and column, seed, steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of each run (1000)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (3)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time (all cores)")
    parser.add_argument("--name", default="orders", help="name of the result file (orders)")
    arguments = parser.parse_args()
    result = {"environment": environment.describe(torch.device("cpu")), "steps": arguments.steps, "rows": []}
    earlier = environment.read(arguments.name)
    if earlier is not None and earlier["steps"] == arguments.steps:
        result["rows"] = earlier["rows"]
    known = {(cell_of(row), row["seed"]) for row in result["rows"]}
    wanted = [pair for pair in itertools.product(CELLS, range(arguments.seeds)) if pair not in known]
    jobs = [(*pair, arguments.steps) for pair in wanted]
    with multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
        for row in tqdm(pool.imap(run, jobs, chunksize=1), total=len(jobs), unit="run"):
            result["rows"].append(row)
            path = environment.write(arguments.name, result)
            tqdm.write(f"order {row['order']}, {cell_of(row)[1]}, seed {row['seed']}: {row['quality']}")
    print(f"written to {path}" if jobs else "nothing is left to train")


def run(job: Job) -> dict[str, Any]:
    """Train and measure; the quality of a run that diverged is None."""
    (order, column), seed, steps = job
    task = replace(TASKS["digits"], decay=column.decay)
    alpha = None if column.floor is None else {"end": steps, "floor": column.floor}
    arguments = {"order": order, "dt": DT, "alpha": alpha, "times": {"equal": EQUAL}}
    trained = train(task, "rcgm", arguments, steps, seed=seed)
    try:
        measured = measure(task, trained, SAMPLING_STEPS, seed)
        quality = {number: values[task.quality] for number, values in measured.items()}
    except NotFiniteError:
        quality = dict.fromkeys(map(str, SAMPLING_STEPS))
    cell = {"order": order, "decay": column.decay, "floor": column.floor}
    return {**cell, "seed": seed, "quality": quality, **trained.costs}


if __name__ == "__main__":
    main()
