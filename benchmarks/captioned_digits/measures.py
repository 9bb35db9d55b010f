"""What samples are worth: prompts that the judge finds fulfilled, distance to real pictures, spread."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.captioned_digits.names import HELD_OUT
from benchmarks.captioned_digits.pictures import Judge, Painter
from benchmarks.captioned_digits.scenes import KINDS, Prompt, draw_prompt, draw_scene, held_out_prompt
from rcgm.evaluation.frechet import frechet_distance
from rcgm.evaluation.spread import spread

__all__ = ["PER_PROMPT", "Examination"]

PER_PROMPT = 4
"""Samples of a prompt, of which the spread is taken."""
REFERENCE = 16
"""Real pictures of a prompt that samples are compared with; 4 of them have a Fréchet distance of their own."""


@dataclass(frozen=True)
class Examination:
    """The same prompts for every network, with real pictures to compare with.

    Args:
        judge: reads pictures.
        groups: the prompts by group.
    """

    judge: Judge
    groups: dict[str, list[Prompt]]

    @classmethod
    def drawn(cls, judge: Judge, prompts_of_a_kind: int, seed: int = 1) -> Examination:
        """Prompts of each kind that training pictures could show, and as many that are held out."""
        generator = torch.Generator().manual_seed(seed)
        groups: dict[str, list[Prompt]] = {kind: [] for kind in KINDS}
        for kind, prompts in groups.items():
            while len(prompts) < prompts_of_a_kind:
                prompt = draw_prompt(kind, generator)
                if draw_scene(prompt, generator) is not None:
                    prompts.append(prompt)
        groups[HELD_OUT] = [held_out_prompt(generator) for _ in range(prompts_of_a_kind)]
        return cls(judge, groups)

    @property
    def prompts(self) -> list[Prompt]:
        """All of them, group by group."""
        return [prompt for prompts in self.groups.values() for prompt in prompts]

    def real(self, *, held_out: bool, each: int = PER_PROMPT, seed: int = 2) -> Tensor:
        """``each`` real pictures of each prompt, of the digits of training or of the others."""
        generator = torch.Generator().manual_seed(seed)
        scenes = [
            draw_scene(prompt, generator, held_out=group == HELD_OUT)
            for group, prompts in self.groups.items()
            for prompt in prompts
            for _ in range(each)
        ]
        return Painter(held_out=held_out).pictures(scenes, generator)

    def measure(self, pictures: Tensor) -> dict[str, float]:
        """Measures of ``PER_PROMPT`` pictures of each prompt, ``[N, 3, 8, 16]``.

        Returns:
            ``right``: share of the pictures that fulfil their prompts, over all groups but the held-out one, and
            by group. Of the pictures of the same groups, ``frechet_distance`` to real pictures of the same prompts,
            in the judge's features, and ``spread``: deviation of the pictures of one prompt, over that of real ones.
        """
        scenes = iter(self.judge.read(pictures))
        by_group = {
            group: sum(prompt.describes(next(scenes)) for prompt in prompts for _ in range(PER_PROMPT))
            / (PER_PROMPT * len(prompts))
            for group, prompts in self.groups.items()
        }
        kinds = [right for group, right in by_group.items() if group != HELD_OUT]
        pictures = pictures[: PER_PROMPT * self._known]
        real, of_real = self._reference
        return {
            "right": sum(kinds) / len(kinds),
            **{f"right: {group}": right for group, right in by_group.items()},
            "frechet_distance": frechet_distance(self.judge.features(pictures), real),
            "spread": _spread(pictures, PER_PROMPT) / of_real,
        }

    @property
    def _known(self) -> int:
        """The number of prompts before the held-out ones, which are the last group."""
        return len(self.prompts) - len(self.groups[HELD_OUT])

    @functools.cached_property
    def _reference(self) -> tuple[Tensor, float]:
        """Features and spread of real pictures, of other scenes of the same prompts than those of :meth:`real`."""
        pictures = self.real(held_out=False, each=REFERENCE, seed=3)[: REFERENCE * self._known]
        return self.judge.features(pictures), _spread(pictures, REFERENCE)


def _spread(pictures: Tensor, each: int) -> float:
    """The spread of pictures of prompts, ``each`` of them of a prompt."""
    return spread(pictures.clamp(-1.0, 1.0), torch.arange(len(pictures)) // each)
