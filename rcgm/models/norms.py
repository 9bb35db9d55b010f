"""Norms of tokens, and of queries and keys."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORMS", "HeadNorm"]

EPSILON = 1e-6


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension, with its gain in the dtype of the input.

    A gain in another dtype, as autocast leaves it, keeps torch from its fused kernel.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` to the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def _of_apex(name: str, *, gain: bool) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        try:
            norm = getattr(importlib.import_module("apex.normalization"), name)
        except (ImportError, AttributeError, OSError) as error:  # OSError: a library that it was built with is gone
            raise ValueError(
                f"norm needs NVIDIA apex, which is not installed ({error}); build it from github.com/NVIDIA/apex with "
                "its CUDA extensions, or choose the norm without apex in its name, which has the same weights"
            ) from error
        return norm(size, eps=EPSILON, elementwise_affine=gain)

    return make


NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "layer": lambda size: nn.LayerNorm(size, elementwise_affine=False, eps=EPSILON),
    "rms": lambda size: nn.RMSNorm(size, elementwise_affine=False, eps=EPSILON),
    "rms_gain": HeadNorm,
    "apex_layer": _of_apex("FusedLayerNorm", gain=False),
    "apex_rms": _of_apex("FusedRMSNorm", gain=False),
    "apex_rms_gain": _of_apex("FusedRMSNorm", gain=True),
}
"""Norms of tokens by name: layer norm as in DiT, root mean square as in UCGM, and with a gain as in LightningDiT.

The same by NVIDIA apex's kernels, which have no forward-mode derivative and which ``torch.compile`` cannot fuse.
"""
