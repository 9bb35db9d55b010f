"""Orders against EMA decays on two moons: the table of math.md section 2 and figure 3 of the RCGM paper, in small.

    python -m benchmarks.moons                     8 runs of 5,000 steps and 2 of 15,000, about 20 minutes on two cores
    python -m benchmarks.moons --steps 200 --long-steps 200   to see that it runs

Every run trains the same MLP from the same seed; only order, way and decay differ. The number is the squared MMD
(V-statistic, mean of RBF kernels of widths 0.1 to 2) between 4,000 samples of the averaged network, the one to deploy,
and 4,000 points of the data, standardised.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import environment
from rcgm.data import BatchStream, build_dataset
from rcgm.evaluation import squared_mmd
from rcgm.models import MLP
from rcgm.objectives import RCGM
from rcgm.sampling import sample_any_step
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep

DECAYS = (0.0, 0.9, 0.99, 0.999)
SAMPLES = 4000
SAMPLING_STEPS = (1, 2, 4)
BATCH = 512
WIDTH = 128
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Run:
    """One cell of the table."""

    order: int
    decay: float
    steps: int
    points: str = "rollout"
    seed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="steps of the runs of the table (5000)")
    parser.add_argument(
        "--long-steps", type=int, default=15000, help="steps of the two long runs at decay 0.999 (15000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="moons", help="name of the result file (moons)")
    arguments = parser.parse_args()
    # The long runs first: two processes then end at about the same time.
    runs = [Run(order, 0.999, arguments.long_steps, seed=arguments.seed) for order in (2, 1)]
    runs += [Run(order, decay, arguments.steps, seed=arguments.seed) for order in (2, 1) for decay in DECAYS]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        rows = list(tqdm(pool.imap(train, runs, chunksize=1), total=len(runs), unit="run"))
    for row in rows:
        print({key: row[key] for key in ("order", "decay", "steps", "mmd")})
    result = {"environment": environment.describe(torch.device("cpu")), "floor": data_floor(), "rows": rows}
    print(f"written to {environment.write(arguments.name, result)}")


def train(run: Run) -> dict[str, Any]:
    """Train one cell and measure its averaged network."""
    dataset = build_dataset("two_moons")
    student = MLP(dim=2, width=WIDTH, generator=torch.Generator().manual_seed(run.seed))
    ema = Ema(student, run.decay)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    step = TrainStep(student, RCGM(order=run.order, points=run.points), optimizer, ema, seed=run.seed)
    batches = iter(BatchStream(dataset, BATCH, run.seed))
    for k in range(1, run.steps + 1):
        step(k, next(batches)[0], None)
    noise = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(run.seed + 1))
    mmd = {}
    for steps in SAMPLING_STEPS:
        samples = sample_any_step(ema.network, noise, steps=steps)
        diverged = not bool(torch.isfinite(samples).all())
        mmd[str(steps)] = None if diverged else squared_mmd(samples, dataset.samples[:SAMPLES])
    return {**asdict(run), "mmd": mmd}


def data_floor() -> float:
    """The MMD between two disjoint sets of the data, which no generator can be expected to beat."""
    samples = build_dataset("two_moons").samples
    return squared_mmd(samples[SAMPLES : 2 * SAMPLES], samples[:SAMPLES])


if __name__ == "__main__":
    main()
