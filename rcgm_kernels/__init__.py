"""Kernels for training few-step generative models: fused losses, the path, the EMA.

They need torch and numpy, and nothing of ``rcgm``.
"""

from rcgm_kernels.coefficients import recursive_coefficients
from rcgm_kernels.ema import ema_update_
from rcgm_kernels.loss import fused_loss, fused_regression, fused_residual_loss
from rcgm_kernels.options import AdaptiveWeight, Metric
from rcgm_kernels.path import advance, interpolate
from rcgm_kernels.version import __version__

__all__ = [
    "AdaptiveWeight",
    "Metric",
    "__version__",
    "advance",
    "ema_update_",
    "fused_loss",
    "fused_regression",
    "fused_residual_loss",
    "interpolate",
    "recursive_coefficients",
]
