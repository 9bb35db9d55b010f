"""Training few-step generative models with N-th order objectives: the layer on top of ``rcgm_kernels``."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rcgm_kernels import __version__  # late: it imports torch, and `rcgm --help` should come at once

    return __version__
