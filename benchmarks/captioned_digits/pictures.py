"""Pictures of scenes, and the judge that reads scenes back from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.captioned_digits.scenes import COLOURS, Cell, Scene
from rcgm.data import Digits
from rcgm.evaluation.classifier import TrainedClassifier, train_classifier

__all__ = ["SHAPE", "Judge", "Painter", "to_latents", "to_pictures", "train_judge"]

SHAPE = (3, 8, 16)
"""Of a picture; values from -1, black, to 1."""
MEAN, DEVIATION = -0.75, 0.57
"""Of a value of the pictures, about."""
SIDE = 8
RGB = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "purple": (1, 0, 1),
    "white": (1, 1, 1),
}
EMPTY = 10 * len(COLOURS)
"""The judge's class of an empty cell; that of a digit is 6 times the digit plus the number of its colour."""
HELD_OUT_EVERY = 6


class Painter:
    """Draws scenes with scikit-learn's digits.

    Args:
        held_out: whether with the sixth of the digits that no training picture shows, or with the others.
    """

    def __init__(self, *, held_out: bool = False) -> None:
        digits = Digits()
        chosen = (torch.arange(len(digits)) % HELD_OUT_EVERY == 0) == held_out
        self.samples, self.labels = digits.samples[chosen], digits.labels[chosen]
        self._by_digit = [(self.labels == digit).nonzero().flatten() for digit in range(10)]

    def picture(self, scene: Scene, generator: torch.Generator) -> Tensor:
        """A picture of ``scene``, of a digit's handwritings one that is drawn."""
        return torch.cat([self._cell(cell, generator) for cell in scene], dim=2)

    def pictures(self, scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
        """Pictures ``[N, 3, 8, 16]`` of scenes."""
        return torch.stack([self.picture(scene, generator) for scene in scenes])

    def coloured(self, colour: int) -> Tensor:
        """All digits in a colour, ``[N, 3, 8, 8]``."""
        return _in_colour(self.samples, colour)

    def _cell(self, cell: Cell, generator: torch.Generator) -> Tensor:
        if cell is None:
            return torch.full((3, SIDE, SIDE), -1.0)
        known = self._by_digit[cell[0]]
        return _in_colour(self.samples[known[torch.randint(len(known), (), generator=generator)]], cell[1])


@dataclass(frozen=True)
class Judge:
    """Reads scenes from pictures.

    Args:
        classifier: of cells, 3 x 8 x 8.
        accuracy: share of held-out real pictures of two digits of which it reads all.
    """

    classifier: TrainedClassifier
    accuracy: float

    def read(self, pictures: Tensor) -> list[Scene]:
        """The scenes of pictures ``[N, 3, 8, 16]``; values beyond [-1, 1] are clamped."""
        sides = [self.classifier.classify(cells)[0].tolist() for cells in _cells(pictures)]
        return [(_cell_of(left), _cell_of(right)) for left, right in zip(*sides, strict=True)]

    def features(self, pictures: Tensor) -> Tensor:
        """Features ``[N, 128]`` of pictures, for Fréchet distances: those of the left cell and of the right one."""
        return torch.cat([self.classifier.classify(cells)[1] for cells in _cells(pictures)], dim=1)


def train_judge(seed: int = 0, epochs: int = 6) -> Judge:
    """Train a judge on the digits of the training pictures, and test it on the others; it takes a minute."""
    painter = Painter()
    images = [painter.coloured(colour) for colour in range(len(COLOURS))]
    labels = [painter.labels * len(COLOURS) + colour for colour in range(len(COLOURS))]
    generator = torch.Generator().manual_seed(seed)
    empty = torch.full((len(painter.labels) // 4, 3, SIDE, SIDE), -1.0)
    images.append(empty + 0.1 * torch.rand(empty.shape, generator=generator))
    labels.append(torch.full((len(empty),), EMPTY))
    classifier = train_classifier(torch.cat(images), torch.cat(labels), EMPTY + 1, seed=seed, epochs=epochs)
    held_out = Painter(held_out=True)
    drawn = torch.randint(EMPTY, (2000, 2), generator=generator).tolist()
    scenes = [(_cell_of(left), _cell_of(right)) for left, right in drawn]
    untested = Judge(classifier, float("nan"))
    read = untested.read(held_out.pictures(scenes, generator))
    right = sum(found == scene for found, scene in zip(read, scenes, strict=True))
    return Judge(classifier, right / len(scenes))


def to_latents(pictures: Tensor) -> Tensor:
    """Pictures with values of mean 0 and deviation 1, as the latents of an autoencoder have."""
    return (pictures - MEAN) / DEVIATION


def to_pictures(latents: Tensor) -> Tensor:
    """Undo :func:`to_latents`."""
    return latents * DEVIATION + MEAN


def _cells(pictures: Tensor) -> tuple[Tensor, Tensor]:
    clamped = pictures.clamp(-1.0, 1.0)
    return clamped[..., :SIDE], clamped[..., SIDE:]


def _cell_of(number: int) -> Cell:
    return None if number == EMPTY else divmod(number, len(COLOURS))


def _in_colour(samples: Tensor, colour: int) -> Tensor:
    """Grey samples ``[..., 1, 8, 8]`` as ``[..., 3, 8, 8]``."""
    rgb = torch.tensor(RGB[COLOURS[colour]], dtype=samples.dtype).reshape(3, 1, 1)
    return (samples + 1.0) * rgb - 1.0
