"""Images of stock pipelines, from given noise and without guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

WITHOUT_GUIDANCE = {
    "sana": {"guidance_scale": 1.0, "use_resolution_binning": False},
    "sd3": {"guidance_scale": 1.0},
    "qwen_image": {"true_cfg_scale": 1.0},
    "flux": {"guidance_scale": 2.0},
    "z_image": {"guidance_scale": 0.0},
    "wan": {"guidance_scale": 1.0, "num_frames": 5},
    "hunyuan_image": {},
    "anyflow": {"num_frames": 5},
}


def stock_images(name: str, stock: Any, prompts: Sequence[str], noise: Tensor, steps: int, **options: Any) -> Tensor:
    """Images in [0, 1] of the tiny pipeline ``stock``, ``[B, 3, H, W]`` or ``[B, 3, T, H, W]``.

    ``options`` of its call go before those that leave guidance out.
    """
    latents = stock._pack_latents(noise, *noise.shape) if hasattr(stock, "_pack_latents") else noise
    output = stock(
        list(prompts), height=2 * noise.shape[-2], width=2 * noise.shape[-1], latents=latents,
        num_inference_steps=steps, output_type="pt", **{**WITHOUT_GUIDANCE[name], **options},
    )  # fmt: skip
    return output.frames.transpose(1, 2) if noise.ndim == 5 else output.images
