"""What a model has to know about the data it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from rcgm.checks import one_of, whole_number
from rcgm.data.normalisation import Normalisation

Kind = Literal["points", "images"]


@dataclass(frozen=True)
class TextInfo:
    """Conditions that text encoders have made of captions.

    Args:
        family: of the published pipeline, such as "sana".
        pipeline: folder or name of the pipeline, whose autoencoder encoded the images.
        tensors: shape of each tensor of a condition, without the batch: `text` `(L, C)`, and where there are any `mask`
            `(L,)`, bool, the same of a second text encoder, `text_2` and `mask_2`, and `pooled` `(D,)`.
        encoder: of the captions, `module:function`; empty for the pipeline's own text encoders. A name from a file of
            somebody else: it must not be imported unless the user says so.
        length: tokens of a caption that the pipeline's text encoders were asked for; None where nobody knows.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    family: str
    pipeline: str
    tensors: Mapping[str, tuple[int, ...]]
    encoder: str = ""
    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None:
            whole_number("length", self.length, 1)
        if "text" not in self.tensors:
            raise ValueError(f"tensors must hold the shape of 'text', got {list(self.tensors)}")
        for name, shape in self.tensors.items():
            for size in shape:
                whole_number(f"each size of {name!r}", size, 1)


@dataclass(frozen=True)
class DataInfo:
    """Shape and conditions of one data set.

    Args:
        shape: shape of one sample, without the batch: `(D,)` for points, `(C, H, W)` for images and latents. Where
            samples have several shapes, that of the most of them.
        num_classes: labels are integers in `[0, num_classes)`; None where samples carry no label.
        kind: "points" or "images".
        class_names: one name a class, or empty where the classes have no names.
        value_range: lowest and highest value a sample can hold, or None where it is not bounded (points, latents).
        normalisation: of latents: what was done to them, and has to be undone before they are decoded.
        text: where the conditions are made of captions, what they are. Samples are then latents, normalised as the
            pipeline does it.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    shape: tuple[int, ...]
    num_classes: int | None
    kind: Kind
    class_names: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    normalisation: Normalisation | None = None
    text: TextInfo | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(Kind))
        axes = 1 if self.kind == "points" else 3
        if not isinstance(self.shape, tuple) or len(self.shape) != axes:
            raise ValueError(f"shape must be a tuple of {axes} sizes for {self.kind}, got {self.shape!r}")
        for size in self.shape:
            whole_number("each size in shape", size, 1)
        if self.num_classes is not None:
            whole_number("num_classes", self.num_classes, 1)
        if self.text is not None and (self.num_classes is not None or self.kind != "images"):
            raise ValueError("text must be left out for data with classes, and for points")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names must hold one name a class, got {len(self.class_names)} with num_classes "
                f"{self.num_classes}"
            )
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be (low, high) with low < high, got {self.value_range!r}")
