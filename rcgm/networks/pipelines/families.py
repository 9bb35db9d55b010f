"""Families of pipelines, by the name of their network."""

from __future__ import annotations

from collections.abc import Mapping

from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.pipelines.flux import FluxPipelineFamily
from rcgm.networks.pipelines.hunyuan_image import HunyuanImagePipelineFamily
from rcgm.networks.pipelines.qwen_image import QwenImagePipelineFamily
from rcgm.networks.pipelines.sana import SanaPipelineFamily
from rcgm.networks.pipelines.sd3 import StableDiffusion3PipelineFamily
from rcgm.networks.pipelines.wan import AnyFlowPipelineFamily, WanPipelineFamily
from rcgm.networks.pipelines.z_image import ZImagePipelineFamily

__all__ = ["PIPELINES"]

PIPELINES: Mapping[str, PipelineFamily] = {
    "sana": SanaPipelineFamily(),
    "sd3": StableDiffusion3PipelineFamily(),
    "qwen_image": QwenImagePipelineFamily(),
    "flux": FluxPipelineFamily(),
    "z_image": ZImagePipelineFamily(),
    "wan": WanPipelineFamily(),
    "hunyuan_image": HunyuanImagePipelineFamily(),
    "anyflow": AnyFlowPipelineFamily(),
}
"""What encodes and decodes for the networks of ``rcgm.networks.NETWORKS``."""
