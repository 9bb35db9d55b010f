"""All models of a seed, one after the other: trained, measured, and written down at once."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import environment
from benchmarks.captioned_digits.captions import encode
from benchmarks.captioned_digits.data import NETWORK, write_pairs
from benchmarks.captioned_digits.measures import PER_PROMPT, Examination
from benchmarks.captioned_digits.names import GUIDANCE, GUIDED, MANY, MULTI_STEP, NAME
from benchmarks.captioned_digits.pictures import Judge, Painter, to_pictures, train_judge
from benchmarks.captioned_digits.runs import ADVERSARIAL, FEW_STEPS, RUN, folder_of, train_few_steps, train_multi_step
from benchmarks.captioned_digits.scenes import KINDS, Prompt, draw_prompt, draw_scene
from rcgm.data.latents.manifest import MANIFEST
from rcgm.plots import sample_panels, save_figure, steps_title
from rcgm.runs import PromptCaptions, load_run

__all__ = ["Experiment", "Lengths"]

LENGTHS = "lengths"
JUDGE = 0.97
FEW = (1, 2, 4)
CHUNK = 256
USUAL = (MULTI_STEP, GUIDED, *FEW_STEPS)
DRAWN = {GUIDED: (MANY, 1), **dict.fromkeys(FEW_STEPS, (2, 1))}
"""Which samples are in the picture: numbers of steps, by model."""
COLUMNS = 8
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How much is trained and measured.

    Args:
        pictures: that are trained on.
        prompts: of each kind, that models are measured with.
        multi_step: steps of flow matching.
        few_step: steps of each few-step model.
    """

    pictures: int = 20_000
    prompts: int = 50
    multi_step: int = 6000
    few_step: int = 1500


class Experiment:
    """Rows of measures, a row for each model and seed, in the folder of the runs and in the usual result file.

    Several processes may work in one folder, each on another seed.

    Args:
        folder: of data, runs and rows; a folder with rows goes on.
        lengths: the same in all calls with one folder.
        judge: None trains one.
        network: see ``write_network``.

    Raises:
        ValueError: the folder holds rows of other lengths.
    """

    def __init__(
        self, folder: Path, lengths: Lengths, judge: Judge | None = None, network: Mapping[str, int] = NETWORK
    ) -> None:
        self.folder, self.lengths = folder, lengths
        settings = dataclasses.asdict(lengths)
        earlier = environment.read(LENGTHS, folder)
        if earlier is not None and earlier != settings:
            raise ValueError(f"folder must hold rows of {settings}, got {earlier}: choose another folder")
        environment.write(LENGTHS, settings, folder)
        self._judge, self._network = judge, network

    def run(self, seed: int, *, adversarial: bool = False) -> None:
        """Train and measure every model that has no row yet; those with an adversarial term where asked for."""
        if not (self.folder / "pairs" / MANIFEST).exists():
            write_pairs(self.folder / "pairs", self.lengths.pictures)
        for model in (*USUAL, *ADVERSARIAL) if adversarial else USUAL:
            kept = folder_of(self.folder, model, seed)
            if environment.read(kept.name, kept.parent) is not None:
                continue
            row = {"seed": seed, "model": model, **self._trained(model, seed)}
            samples = self._samples(model, seed, sampled(model), self.examination.prompts, PER_PROMPT)
            measured = {steps: self.examination.measure(pictures) for steps, pictures in samples.items()}
            for steps, found in measured.items():
                short = ", ".join(f"{name} {found[name]:.3f}" for name in ("right", "frechet_distance", "spread"))
                print(f"{model}, {steps_title(steps)}: {short}", file=sys.stderr, flush=True)
            environment.write(kept.name, row | {"measures": measured}, kept.parent)
            self._write()

    def _trained(self, model: str, seed: int) -> dict[str, Any]:
        """Train a model, unless it is another one with guidance; how long that took."""
        if model == GUIDED:
            return {}
        if model == MULTI_STEP:
            summary = train_multi_step(self.folder, self.lengths.multi_step, seed, self._network)
        else:
            summary = train_few_steps(self.folder, model, self.lengths.few_step, seed)
        return {"seconds": summary["wall_time_seconds"], "steps": summary["steps"]}

    def draw(self, seed: int, path: Path) -> None:
        """Draw samples of the same prompts and noise by all models."""
        generator = torch.Generator().manual_seed(0)
        kinds = (list(KINDS) * COLUMNS)[-COLUMNS:]
        prompts = [draw_prompt(kind, generator) for kind in kinds]
        shown = {
            f"{model}, {steps_title(steps)}": pictures
            for model, counts in DRAWN.items()
            for steps, pictures in self._samples(model, seed, counts, prompts).items()
        }
        scenes = [draw_scene(prompt, generator, held_out=True) for prompt in prompts]
        shown["real"] = Painter(held_out=True).pictures(scenes, generator)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(path, sample_panels(shown, captions=[prompt.caption for prompt in prompts]))

    @functools.cached_property
    def examination(self) -> Examination:
        """The judge and the prompts.

        Raises:
            RuntimeError: the judge that was trained here reads too few of held-out real pictures right.
        """
        judge = self._judge
        if judge is None:
            judge = train_judge()
            if judge.accuracy < JUDGE:
                raise RuntimeError(f"the judge reads {judge.accuracy:.3f} of real pictures right, less than {JUDGE}")
        return Examination.drawn(judge, self.lengths.prompts)

    @functools.cached_property
    def _real(self) -> dict[str, float]:
        return self.examination.measure(self.examination.real(held_out=True))

    def _samples(
        self, model: str, seed: int, counts: Sequence[int], prompts: list[Prompt], each: int = 1
    ) -> dict[int, Tensor]:
        """Pictures of a trained model, for each number of steps."""
        captions = PromptCaptions(encode, [prompt.caption for prompt in prompts], each=each)
        run = load_run(folder_of(self.folder, MULTI_STEP if model == GUIDED else model, seed), device=CPU)
        sampler = run.sampler(captions=captions, guidance=GUIDANCE if model == GUIDED else 1.0)
        return {steps: to_pictures(sampler.draw(len(captions), steps=steps, largest=CHUNK)) for steps in counts}

    def _rows(self) -> list[dict[str, Any]]:
        """All rows that there are, by seed and model."""
        seeds = sorted(int(path.name.removeprefix(RUN)) for path in self.folder.glob(f"{RUN}*"))
        kept = [folder_of(self.folder, model, seed) for seed in seeds for model in (*USUAL, *ADVERSARIAL)]
        rows = [environment.read(path.name, path.parent) for path in kept]
        return [row for row in rows if row is not None]

    def _write(self) -> None:
        result = {
            "environment": environment.describe(CPU),
            "lengths": dataclasses.asdict(self.lengths),
            "judge": self.examination.judge.accuracy,
            "real": self._real,
            "rows": self._rows(),
        }
        for folder in (self.folder, None):
            environment.write(NAME, result, folder)


def sampled(model: str) -> tuple[int, ...]:
    """The numbers of sampling steps that a model is measured with."""
    return (*FEW, MANY) if model in (MULTI_STEP, GUIDED) else FEW
