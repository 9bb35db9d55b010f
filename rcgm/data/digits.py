"""The handwritten digits that scikit-learn carries."""

from __future__ import annotations

import torch

from rcgm.data.in_memory import InMemoryDataset
from rcgm.data.info import DataInfo


class Digits(InMemoryDataset):
    """1,797 digits: `samples` float32 `[1797, 1, 8, 8]` in [-1, 1], `labels` int64 `[1797]`, 10 classes.

    The images hold the integers 0 to 16, here divided by 8 and lowered by 1. Source: Alpaydin and Kaynak, Optical
    Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test set).
    """

    def __init__(self) -> None:
        # Imported here as it takes about a second, which a run on image files need not wait for.
        from sklearn.datasets import load_digits

        digits = load_digits()
        super().__init__(
            torch.from_numpy(digits.images).float().div(8).sub(1).unsqueeze(1),
            torch.from_numpy(digits.target).long(),
            DataInfo(
                shape=(1, 8, 8),
                num_classes=10,
                kind="images",
                class_names=tuple("0123456789"),
                value_range=(-1.0, 1.0),
            ),
        )
