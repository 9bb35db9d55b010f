"""Training few-step generative models with N-th order objectives: the layer on top of ``rcgm_kernels``."""

from rcgm_kernels.version import __version__

__all__ = ["__version__"]
