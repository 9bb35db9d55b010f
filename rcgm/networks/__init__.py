"""Published text-to-image networks as networks ``(x, t, r, cond)``, one file a family.

A file says what differs: how ``(x, t, cond)`` become arguments, which modules are blocks, which layers LoRA adapts.
A new family is a subclass of ``PublishedNetwork`` and a line in ``NETWORKS``. Diffusers is imported when a network is
made.
"""

from rcgm.networks.base import PublishedNetwork
from rcgm.networks.flux import Flux
from rcgm.networks.qwen_image import QwenImage
from rcgm.networks.sana import Sana
from rcgm.networks.sd3 import StableDiffusion3

NETWORKS: dict[str, type[PublishedNetwork]] = {
    "sana": Sana,
    "sd3": StableDiffusion3,
    "qwen_image": QwenImage,
    "flux": Flux,
}
"""Families, by their name in a configuration."""

__all__ = ["NETWORKS", "Flux", "PublishedNetwork", "QwenImage", "Sana", "StableDiffusion3"]
