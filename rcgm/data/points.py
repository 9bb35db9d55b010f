"""Point clouds in the plane: two moons, S-curve, swiss roll.

The clouds are those of scikit-learn. Each is moved and scaled, per coordinate, by the mean and the standard deviation
of one fixed reference draw of 100,000 points with the same noise, not by its own, so that clouds drawn with different
seeds or sizes lie in exactly the same coordinates and can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rcgm.checks import non_negative_float, whole_number
from rcgm.data.in_memory import InMemoryDataset
from rcgm.data.info import DataInfo

REFERENCE_SIZE = 100_000
REFERENCE_SEED = 0
LARGEST_SEED = 2**32 - 1

Draw = Callable[[int, float, int], tuple[np.ndarray, np.ndarray]]


class _Points(InMemoryDataset):
    def __init__(self, draw: Draw, size: int, noise: float, seed: int, num_classes: int | None) -> None:
        size = whole_number("size", size, 1)
        noise = non_negative_float("noise", noise)
        seed = whole_number("seed", seed, 0)
        if seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED} (scikit-learn), got {seed}")
        reference, _ = draw(REFERENCE_SIZE, noise, REFERENCE_SEED)
        points, classes = draw(size, noise, seed)
        standardised = (points - reference.mean(axis=0)) / reference.std(axis=0)
        labels = None if num_classes is None else torch.from_numpy(classes.astype(np.int64))
        super().__init__(
            torch.from_numpy(standardised.astype(np.float32)),
            labels,
            DataInfo(shape=(2,), num_classes=num_classes, kind="points"),
        )
        self._drawn = {"cloud": type(self).__name__, "noise": noise, "seed": seed}

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: what the points are drawn from.

        The points themselves may differ in their last digits between versions of numpy.
        """
        return {"drawn": self._drawn}


class TwoMoons(_Points):
    """Two interleaving half circles, standardised: `samples` float32 `[size, 2]`.

    scikit-learn spaces the angles of the whole cloud evenly, so a small cloud is more regular than independent draws.
    Where it is to stand for independent draws, take the first points of a large cloud, which is shuffled.

    Args:
        size: number of points, at least 1.
        noise: standard deviation of the Gaussian noise on each coordinate; the half circles have radius 1.
        seed: 0 to 2**32 - 1.
        labels: label each point with the moon it is from (2 classes).

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    def __init__(self, size: int = 100_000, noise: float = 0.05, seed: int = 0, labels: bool = False) -> None:
        super().__init__(_two_moons, size, noise, seed, 2 if labels else None)


class SCurve(_Points):
    """The S-curve seen along its width, standardised: `samples` float32 `[size, 2]`, without labels.

    Args:
        size: number of points, at least 1.
        noise: standard deviation of the Gaussian noise on each coordinate; the curve is two arcs of radius 1.
        seed: 0 to 2**32 - 1.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    def __init__(self, size: int = 100_000, noise: float = 0.05, seed: int = 0) -> None:
        super().__init__(_s_curve, size, noise, seed, None)


class SwissRoll(_Points):
    """The swiss roll seen along its width, standardised: `samples` float32 `[size, 2]`, without labels.

    Args:
        size: number of points, at least 1.
        noise: standard deviation of the Gaussian noise on each coordinate; the spiral's radius runs from 4.7 to 14.1.
        seed: 0 to 2**32 - 1.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    def __init__(self, size: int = 100_000, noise: float = 0.5, seed: int = 0) -> None:
        super().__init__(_swiss_roll, size, noise, seed, None)


# scikit-learn is imported where it is called: it takes about a second, which a run on image files need not wait for.


def _two_moons(size: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_moons

    return make_moons(size, noise=noise, random_state=seed)


def _s_curve(size: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_s_curve

    points, position = make_s_curve(size, noise=noise, random_state=seed)
    return points[:, [0, 2]], position


def _swiss_roll(size: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_swiss_roll

    points, position = make_swiss_roll(size, noise=noise, random_state=seed)
    return points[:, [0, 2]], position
