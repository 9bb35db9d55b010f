"""Data sets by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch.utils.data import Dataset

from rcgm.checks import one_of
from rcgm.data.arrays import Arrays
from rcgm.data.digits import Digits
from rcgm.data.image_folder import ImageFolder
from rcgm.data.latents import Latents
from rcgm.data.points import SCurve, SwissRoll, TwoMoons
from rcgm.data.text import EncodedPairs

DATASETS: dict[str, type[Dataset]] = {
    "two_moons": TwoMoons,
    "s_curve": SCurve,
    "swiss_roll": SwissRoll,
    "digits": Digits,
    "image_folder": ImageFolder,
    "arrays": Arrays,
    "latents": Latents,
    "encoded_pairs": EncodedPairs,
}
"""Data sets, by their name in a configuration."""


def build_dataset(name: str, **arguments: Any) -> Dataset:
    """Build the data set `DATASETS[name]` from its arguments.

    Returns:
        A map-style data set of `(float32 tensor, int label or -1)`, or of `(float32 tensor, tensors by name)`, with an
        attribute `info` (`DataInfo`).

    Raises:
        ValueError: no such name; or the data set's own.
        TypeError: an argument that the data set does not take, or one missing; or the data set's own.
    """
    one_of("name", name, DATASETS)
    signature = inspect.signature(DATASETS[name])
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise TypeError(f"data set {name!r}: {error}; it takes {list(signature.parameters)}") from None
    return DATASETS[name](**arguments)
