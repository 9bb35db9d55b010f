"""Published text-to-image networks as networks ``(x, t, r, cond)``, one file a family.

A file says what differs: how ``(x, t, cond)`` become arguments, which modules are blocks, which layers LoRA adapts.
A new family is a subclass of ``PublishedNetwork`` and a line in ``families.py``. Diffusers is imported when a network
is made.
"""

from rcgm.networks.anyflow import AnyFlow
from rcgm.networks.base import PublishedNetwork
from rcgm.networks.families import NETWORKS
from rcgm.networks.few_step import few_step
from rcgm.networks.flux import Flux
from rcgm.networks.hunyuan_image import HunyuanImage
from rcgm.networks.qwen_image import QwenImage
from rcgm.networks.sana import Sana
from rcgm.networks.sd3 import StableDiffusion3
from rcgm.networks.wan import Wan
from rcgm.networks.z_image import ZImage

__all__ = [
    "NETWORKS",
    "AnyFlow",
    "Flux",
    "HunyuanImage",
    "PublishedNetwork",
    "QwenImage",
    "Sana",
    "StableDiffusion3",
    "Wan",
    "ZImage",
    "few_step",
]
