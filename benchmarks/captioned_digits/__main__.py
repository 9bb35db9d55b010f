"""The captioned digits: a small SANA by flow matching, then into few steps.

    python -m benchmarks.captioned_digits

Writes data, networks and runs into runs/captioned_digits, and the measures into benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import environment
from benchmarks.captioned_digits.captions import encode
from benchmarks.captioned_digits.data import write_network, write_pairs
from benchmarks.captioned_digits.measures import PER_PROMPT, Examination
from benchmarks.captioned_digits.pictures import train_judge
from benchmarks.captioned_digits.runs import FEW_STEPS, MULTI_STEP, train_few_steps, train_multi_step
from rcgm.runs import PromptCaptions, load_run

JUDGE = 0.97
SAMPLING_STEPS = (1, 2, 4, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/captioned_digits"), help="of all files")
    parser.add_argument("--pictures", type=int, default=20_000, help="pictures to train on (20000)")
    parser.add_argument("--prompts", type=int, default=50, help="prompts of each kind (50)")
    parser.add_argument("--multi-step", type=int, default=6000, help="steps of flow matching (6000)")
    parser.add_argument("--few-step", type=int, default=2000, help="steps of each few-step model (2000)")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions (1)")
    options = parser.parse_args()
    judge = train_judge()
    if judge.accuracy < JUDGE:
        raise SystemExit(f"the judge must read at least {JUDGE} of held-out real pictures right, got {judge.accuracy}")
    examination = Examination.drawn(judge, options.prompts)
    write_pairs(options.folder / "pairs", options.pictures)
    result = {
        "environment": environment.describe(torch.device("cpu")),
        "judge": judge.accuracy,
        "real": examination.measure(examination.real(held_out=True)),
        "steps": {"multi_step": options.multi_step, "few_step": options.few_step},
        "seeds": [],
    }
    for seed in range(options.seeds):
        write_network(options.folder / "network", patch_size=2, seed=seed)
        begun = time.perf_counter()
        runs = {MULTI_STEP: train_multi_step(options.folder, options.multi_step, seed)}
        runs |= {name: train_few_steps(options.folder, name, options.few_step, seed) for name in FEW_STEPS}
        measured = {name: measure(run, examination) for name, run in runs.items()}
        result["seeds"].append({"seed": seed, "seconds": time.perf_counter() - begun, "models": measured})
        print(f"written to {environment.write('captioned_digits', result)}")


def measure(
    run: Path, examination: Examination, sampling_steps: Sequence[int] = SAMPLING_STEPS
) -> dict[int, dict[str, float]]:
    """The measures of a run's network, by steps of sampling."""
    prompts = [prompt.caption for prompt in examination.prompts]
    captions = PromptCaptions(encode, prompts, each=PER_PROMPT)
    sampler = load_run(run, device=torch.device("cpu")).sampler(captions=captions)
    count = PER_PROMPT * len(examination.prompts)
    return {steps: examination.measure(sampler.draw(count, steps=steps)) for steps in sampling_steps}


if __name__ == "__main__":
    main()
