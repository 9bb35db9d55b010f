"""Images and captions as they are encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from rcgm.data.image_files import read_image
from rcgm.encoding.pairs.plan import PairPlan
from rcgm.encoding.pairs.survey import LeftOut
from rcgm.encoding.sources import BadPairError, Reason

__all__ = ["Pair", "PairReader"]


@dataclass(frozen=True)
class Pair:
    """An image, float32 ``[3, H, W]`` in [-1, 1], with its caption and its number in the source."""

    index: int
    image: Tensor
    caption: str


class PairReader(Dataset):
    """Decodes pairs; those that cannot be decoded are told and raise nothing.

    Args:
        plan: which pairs.
    """

    def __init__(self, plan: PairPlan) -> None:
        self._plan = plan

    def __getitem__(self, index: int) -> Pair | LeftOut:
        plan = self._plan
        height, width = plan.surveyed[index]  # type: ignore[misc]
        try:
            caption = plan.source.caption(index)
            image = read_image(plan.source.image(index), "RGB", plan.background, plan.source.name(index))
        except BadPairError as error:
            return LeftOut(index, error.reason, error.detail)
        except (OSError, ValueError) as error:
            return LeftOut(index, Reason.IMAGE_BROKEN, str(error))
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted, dtype=np.float32)).div_(127.5).sub_(1.0)
        return Pair(index, pixels.permute(2, 0, 1).contiguous(), caption)
