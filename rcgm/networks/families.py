"""Families of published networks, by their name in a configuration."""

from __future__ import annotations

from torch import nn

from rcgm.networks.anyflow import AnyFlow
from rcgm.networks.base import PublishedNetwork
from rcgm.networks.flux import Flux
from rcgm.networks.hunyuan_image import HunyuanImage
from rcgm.networks.qwen_image import QwenImage
from rcgm.networks.sana import Sana
from rcgm.networks.sd3 import StableDiffusion3
from rcgm.networks.wan import Wan
from rcgm.networks.z_image import ZImage

__all__ = ["NETWORKS", "family_of"]

NETWORKS: dict[str, type[PublishedNetwork]] = {
    "sana": Sana,
    "sd3": StableDiffusion3,
    "qwen_image": QwenImage,
    "flux": Flux,
    "z_image": ZImage,
    "wan": Wan,
    "hunyuan_image": HunyuanImage,
    "anyflow": AnyFlow,
}
"""Families, by their name in a configuration."""


def family_of(network: nn.Module) -> str:
    """The name of the family of ``network``, otherwise TypeError."""
    for name, kind in NETWORKS.items():
        if type(network) is kind:
            return name
    known = ", ".join(kind.__name__ for kind in NETWORKS.values())
    raise TypeError(f"network must be one of {known}, got {type(network).__name__}")
