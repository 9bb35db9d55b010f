"""Trains every objective on the same data for the same time, and measures quality and cost of a step.

    python -m benchmarks.objectives             digits and two moons, an hour and more a seed on two cores
    python -m benchmarks.objectives --seeds 3   each row three times, with spreads
    python -m benchmarks.objectives --tasks digits --only mean_flow,rcgm-2      these rows, also where there are some
    python -m benchmarks.objectives --budget 20 --name trial                    to see that it runs

A command that was stopped goes on where it stopped, also on another machine: the time of a run is that of so many steps
of flow matching, which are made and timed beside it.

All runs of a seed train the same network on one core; only objective, discriminator and beginning differ. Tuned and
distilled rows begin with the flow-matching network of this benchmark, whose own training is not counted; distilled ones
learn from it, tuned ones from data. Each is sampled by the averaged network with the sampler that it is made for, at 1,
2 and 4 steps, and at 16 where its sampler follows the flow; guidance is not used.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.flow_matching_clock import FlowMatchingClock
from benchmarks.training import DIGITS_DIT, TEACHER, Task, Training, measure, train
from rcgm.config import OptimizerConfig
from rcgm.evaluation.checks import NotFiniteError

FLOW_SAMPLERS = ("euler", "heun", "any_step", "ucgm_multi")
TASKS = {
    "digits": Task(
        "digits", DIGITS_DIT, 64, OptimizerConfig(lr=3e-3, warmup_steps=50), 0.995, "frechet_distance", 1000
    ),
    "two_moons": Task(
        "two_moons", {"name": "mlp", "dim": 2, "width": 128}, 512,
        OptimizerConfig(lr=1e-3, betas=(0.9, 0.999), warmup_steps=100), 0.99, "squared_mmd", 4000,
    ),
}  # fmt: skip

EVERYWHERE = {"distribution": "uniform", "interval": "hierarchical", "equal": 0.5, "zero": 0.1}
"""Times that come to every part of [0, 1] as often."""


@dataclass(frozen=True)
class Entry:
    """One row: an objective, and its arguments as a configuration file has them.

    Args:
        tuned: begins with the flow-matching network, which is the teacher where there is one.
        lr: its learning rate where it is not the task's.
        discriminator: the section of a configuration; None for no discriminator.
    """

    name: str
    objective: str
    arguments: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False
    lr: float | None = None
    discriminator: dict[str, Any] | None = None


Weights = dict[str, numpy.ndarray]
Job = tuple[str, Entry, int, int, "Weights | None"]


def entries(task: str) -> list[Entry]:
    """The rows for a task, tuned for runs of a thousand steps or two where the papers' settings are for long ones.

    On both, sCM's tangent warm-up (the paper: 10,000 steps) is shorter than the run. On the digits, measured in runs of
    40 s: consistency training over the whole way to the data wants a smaller learning rate than flow matching (UCGM 1:
    Fréchet distance 31 at 3e-3, 17 at 1e-3) and wider gaps (consistency: 74 to 10); sCM's normalised tangent gives
    every gradient the same length however near the target is, fine with a falling rate, here worse than a clamp
    (47 to 26); a target network of EMA 0.995 lags 200 steps behind, a fifth of the run (Shortcut: 50, and 5 by the
    student itself). With r = 0 alone sCM gets worse as it trains, as continuous-time consistency models are known to
    (distilled: 10 after 20 s, 55 after 100 s); half of the samples at r = t, as MeanFlow has them, hold it (3 after
    20 s), and so does a difference step of 0.05 (4).

    On the two moons, MeanFlow and its relatives (improved MeanFlow, alpha-Flow, TiM) want neither the published weight
    of a sample by its own residual nor the published times. The weight makes of the mean of the velocities something
    else, which shows in two dimensions, where residuals are of very different sizes; the times seldom come to ``t =
    1``, where one step begins. MeanFlow in one step, squared MMD: 0.018 as published, 0.046 without the weight, 0.0017
    with uniform times, too. Order 2 then diverges where the student is its target network (``rcgm-2 student``), so
    alpha-Flow's takes the average. alpha-Flow, improved MeanFlow and TwinFlow are distilled there alone.

    The self-adversarial term, also measured on the digits: without a warm-up the first hundred steps follow a velocity
    of fakes that is not learned yet. Weight 0.5 suits residuals that are divided by a gap. MeanFlow and TiM, whose
    residuals are not, leave the data altogether with it (Fréchet distances above 50), and some seeds do with 0.05.
    Distilled DE-CM has a Fréchet distance of 5 in one step with a learning rate of 3e-3.
    """
    digits = task == "digits"
    dt, share = (0.1, {"times": {"equal": 0.25}}) if digits else (0.01, {})
    slow = 1e-3 if digits else None
    gap = {"dt": 0.1} if digits else {}
    relatives = {} if digits else {"times": EVERYWHERE, "adaptive": None}
    scm = {"warmup_steps": 200}
    if digits:
        scm |= {"normalize": None, "clip": 1.0, "times": {"interval": "zero", "equal": 0.5}}
    improved = {**relatives, "reduce": "mean"} if relatives else {}
    steadied = {} if digits else {"network": "target"}
    half_steps = {"network": "student"} if digits else {}
    distilled = {"supervision": "teacher"}
    schedule = {"alpha": {"end": 1000}}  # shorter than any run here
    term = {"self_adversarial": {"weight": 0.5, "warmup_steps": 200}}
    light = {"self_adversarial": {"weight": 0.05, "warmup_steps": 200}}
    return [
        Entry(TEACHER, "flow_matching"),
        *(Entry(f"rcgm-{order}", "rcgm", {"order": order, "dt": dt, **share}) for order in (1, 2)),
        *(
            Entry(f"rcgm-{order} student", "rcgm", {"order": order, "dt": dt, "network": "student", **share})
            for order in (1, 2)
        ),
        Entry("rcgm-4 jump", "rcgm", {"order": 4, "dt": dt, "points": "jump", **share}),
        Entry("consistency", "consistency", gap, lr=slow),
        Entry("consistency distilled", "consistency", {**gap, **distilled}, tuned=True, lr=slow),
        Entry("scm", "scm", scm, lr=slow),
        Entry(
            "scm distilled", "scm", {**scm, **distilled, "transport": "linear"}, tuned=True, lr=slow
        ),  # the teacher's
        Entry("shortcut", "shortcut", half_steps),
        Entry("mean_flow", "mean_flow", {"derivative": "central", **relatives}),
        Entry("mean_flow auto", "mean_flow", {"derivative": "auto", **relatives}),
        Entry("mean_flow jvp", "mean_flow", {"derivative": "jvp", **relatives}),
        *(Entry(f"ucgm-{ratio:g}", "ucgm", {"consistency_ratio": ratio, "clip": 1.0}) for ratio in (0.0, 0.5)),
        Entry("ucgm-1", "ucgm", {"consistency_ratio": 1.0, "clip": 1.0}, lr=slow),
        Entry("tim", "tim", relatives),
        Entry("alpha_flow-1", "alpha_flow", {"order": 1, **schedule, **relatives}),
        Entry("alpha_flow-2", "alpha_flow", {"order": 2, **schedule, **relatives, **steadied}),
        Entry("improved_mean_flow", "improved_mean_flow", improved),
        Entry("twinflow-2", "twinflow", {"order": 2, "dt": dt}),
        Entry("rcgm-2 term", "rcgm", {"order": 2, "dt": dt, **share, **term}),
        Entry("decm", "decm"),
        Entry("decm distilled", "decm", distilled, tuned=True, lr=slow),
        Entry("facm", "facm", lr=slow),
        Entry("facm distilled", "facm", distilled, tuned=True, lr=slow),
        Entry("rcgm-1 tuned", "rcgm", {"order": 1, "dt": dt, **share}, tuned=True, lr=slow),
        Entry("rcgm-2 tuned", "rcgm", {"order": 2, "dt": dt, **share}, tuned=True, lr=slow),
        Entry("mean_flow tuned", "mean_flow", {"derivative": "central", **relatives}, tuned=True, lr=slow),
        Entry("tim tuned", "tim", relatives, tuned=True, lr=slow),
        Entry("alpha_flow-1 tuned", "alpha_flow", {"order": 1, **schedule, **relatives}, tuned=True, lr=slow),
        Entry("improved_mean_flow tuned", "improved_mean_flow", improved, tuned=True, lr=slow),
        *(
            Entry(f"twinflow-{order} tuned", "twinflow", {"order": order, "dt": dt}, tuned=True, lr=slow)
            for order in (1, 2)
        ),
        Entry("rcgm-2 term tuned", "rcgm", {"order": 2, "dt": dt, **share, **term}, tuned=True, lr=slow),
        Entry(
            "mean_flow term tuned", "mean_flow", {"derivative": "central", **relatives, **light}, tuned=True, lr=slow
        ),
        Entry("tim term tuned", "tim", {**relatives, **light}, tuned=True, lr=slow),
        *(
            []
            if digits
            else [
                Entry(
                    "alpha_flow-1 distilled",
                    "alpha_flow",
                    {"order": 1, **schedule, **relatives, **distilled},
                    tuned=True,
                ),
                Entry("improved_mean_flow distilled", "improved_mean_flow", {**improved, **distilled}, tuned=True),
                Entry("twinflow-2 distilled", "twinflow", {"order": 2, "dt": dt, **distilled}, tuned=True),
            ]
        ),
        *(
            Entry(
                f"rcgm-2 {loss} tuned",
                "rcgm",
                {"order": 2, "dt": dt, **share},
                tuned=True,
                lr=slow,
                discriminator={"weight": 0.1, "loss": loss},
            )
            for loss in (["hinge", "relativistic"] if digits else [])
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--budget", type=int, default=3000, help="training time of each, in steps of flow matching (3000)"
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="which data, separated by commas (both)")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="rows to train, separated by commas, again where they are in the file (all that are not)",
    )
    parser.add_argument("--seeds", type=int, default=1, help="repetitions of each row (1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="rows that train at a time (all cores)")
    parser.add_argument("--name", default="objectives", help="name of the result file (objectives)")
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    if not set(tasks) <= set(TASKS):
        parser.error(f"--tasks must be among {', '.join(TASKS)}, got {arguments.tasks}")
    names = None if arguments.only is None else arguments.only.split(",")
    described = environment.describe(torch.device("cpu"))
    rows = known_rows(environment.read(arguments.name), arguments.budget)
    result = {"environment": described, "budget": arguments.budget, "rows": rows}
    # A fresh process for each run, so that peak memory is its own.
    with multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,), 1) as pool:
        for task in tasks:
            wanted = [
                (entry, seed)
                for entry in entries(task)
                for seed in range(arguments.seeds)
                if (entry.name in names if names else not any(is_of(row, task, entry.name, seed) for row in rows))
            ]
            seeds = sorted({seed for entry, seed in wanted if entry.tuned})
            taught = pool.starmap(train_teacher, [(task, seed, arguments.budget) for seed in seeds])
            begins = dict(zip(seeds, taught, strict=True))
            jobs = [
                (task, entry, seed, arguments.budget, begins[seed] if entry.tuned else None) for entry, seed in wanted
            ]
            for row in tqdm(pool.imap(run, jobs, chunksize=1), total=len(jobs), desc=task, unit="run"):
                put(rows, {**row, "commit": described["commit"]})
                rows.sort(key=place)
                path = environment.write(arguments.name, result)
                tqdm.write(line(row))
    print(f"written to {path}")


def known_rows(earlier: dict[str, Any] | None, budget: int) -> list[dict[str, Any]]:
    """The rows of an earlier result.

    Raises:
        ValueError: they were trained for another time.
    """
    if earlier is None:
        return []
    if earlier["budget"] != budget:
        raise ValueError(
            f"budget must be that of the result file, {earlier['budget']}, got {budget}: choose another --name"
        )
    return earlier["rows"]


def is_of(row: dict[str, Any], task: str, name: str, seed: int) -> bool:
    """True if this is the row of that name and seed."""
    return (row["task"], row["name"], row["seed"]) == (task, name, seed)


def put(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Put ``row`` in the place of the one of its name and seed, or at the end."""
    same = [i for i, other in enumerate(rows) if is_of(other, row["task"], row["name"], row["seed"])]
    if same:
        rows[same[0]] = row
    else:
        rows.append(row)


def place(row: dict[str, Any]) -> tuple[int, int, int]:
    """Where a row belongs in the file; one that is no longer in the list stands last."""
    names = [entry.name for entry in entries(row["task"])]
    number = names.index(row["name"]) if row["name"] in names else len(names)
    return list(TASKS).index(row["task"]), number, row["seed"]


def train_teacher(task: str, seed: int, budget: int) -> Weights:
    """Weights of the flow-matching network that the tuned rows begin with."""
    trained = train(TASKS[task], TEACHER, {}, budget, seed=seed)
    # as arrays: a tensor would be handed over through the memory of a process that ends here
    return {name: tensor.numpy() for name, tensor in trained.ema.network.state_dict().items()}


def run(job: Job) -> dict[str, Any]:
    """Train one row and measure its averaged network; the quality of one that diverged is None."""
    name, entry, seed, budget, weights = job
    begin = None if weights is None else {key: torch.from_numpy(array) for key, array in weights.items()}
    task = TASKS[name]
    clock = FlowMatchingClock(task)
    if entry.lr is not None:
        task = replace(task, optimizer=task.optimizer.model_copy(update={"lr": entry.lr}))
    training = Training(
        task, entry.objective, entry.arguments, seed=seed, begin=begin, discriminator=entry.discriminator
    )
    while clock.read(training) < budget:
        training.step()
    trained = training.trained()
    sampler = trained.objective.sampler
    steps = (1, 2, 4, 16) if sampler in FLOW_SAMPLERS else (1, 2, 4)
    measured = {}
    for number in steps:
        with contextlib.suppress(NotFiniteError):
            measured.update(measure(task, trained, (number,), seed))
    quality = {str(number): measured.get(str(number), {}).get(task.quality) for number in steps}
    return {
        "task": name,
        "name": entry.name,
        "seed": seed,
        "sampler": sampler,
        "quality": quality,
        "measured": measured,
        **trained.costs,
        "time_of_step": clock.read(training) / training.number,
    }


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    quality = "  ".join(
        f"{steps}: {'diverged' if value is None else format(value, '.4g')}" for steps, value in row["quality"].items()
    )
    return (
        f"{row['name']:<26} {row['steps']:>6} steps of {row['time_of_step']:4.2f}  {row['memory_mib']:6.0f} MiB  "
        f"{row['waves']:.2f} waves {row['evaluations']:.2f} evaluations   {quality}"
    )


if __name__ == "__main__":
    main()
