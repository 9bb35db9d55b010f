"""Attention kernels behind one interface: torch's own, the FlashAttention packages, xformers.

All are exact attention without mask or dropout, ``softmax(q k^T / sqrt(size)) v``, and agree to rounding. To add one,
add an entry to ``BACKENDS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.checks import one_of

__all__ = ["BACKENDS", "AttentionBackend", "attention_backends", "attention_kernel"]

Kernel = Callable[[Tensor, Tensor, Tensor], Any]

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention.

    Args:
        load: gives the kernel, of three tensors ``[B, T, H, D]``; raises ImportError or AttributeError where what it
            needs is not installed.
        get: what to install; empty for what torch has.
        gpu: whether it runs on a GPU alone.
        dtypes: that it takes; empty for all.
    """

    load: Callable[[], Kernel]
    get: str = ""
    gpu: bool = False
    dtypes: tuple[torch.dtype, ...] = ()

    def missing(self) -> str | None:
        """Why it cannot be used with what is installed here; None where it can."""
        try:
            self.load()
        except (ImportError, AttributeError, OSError) as error:  # OSError: a library that it was built with is gone
            return f"{error}; {self.get}"
        return None

    def kernel(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The kernel behind checks of what it is given: tensors ``[B, T, H, D]`` to one of that shape.

        Args:
            name: of this backend, for messages.

        Raises:
            ValueError: it is not installed; the message says how to get it.
        """
        missing = self.missing()
        if missing is not None:
            raise ValueError(f"attention {name!r} is not installed ({missing}); others are {', '.join(BACKENDS)}")
        kernel = self.load()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if self.gpu and q.device.type not in ("cuda", "meta"):
                raise ValueError(
                    f"attention {name!r} runs on a GPU alone, and got tensors on {q.device.type}: use sdpa"
                )
            if self.dtypes and q.dtype not in self.dtypes:
                raise TypeError(
                    f"attention {name!r} needs float16 or bfloat16 and got {q.dtype}: use autocast "
                    "(precision: bfloat16) or another attention"
                )
            if self.get and any(unpack_dual(part).tangent is not None for part in (q, k, v)):
                # without a rule, operators of packages give zero derivatives and no error
                raise NotImplementedError(f"attention {name!r} is not known to have a rule for forward-mode AD (jvp).")
            output = kernel(q, k, v)
            # Some versions of FlashAttention 3 and 4 return the logarithms of the softmax's sums too.
            return output[0] if isinstance(output, tuple) else output

        return attend


def _sdpa(kind: SDPBackend | None) -> Callable[[], Kernel]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    def attend_by(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kind):
            return attend(q, k, v)

    return lambda: attend if kind is None else attend_by


def _of_package(module: str, function: str) -> Callable[[], Kernel]:
    # These functions take [B, T, H, D] first, and by default neither mask nor drop, and scale by 1 / sqrt(D).
    return lambda: getattr(importlib.import_module(module), function)


BACKENDS: Mapping[str, AttentionBackend] = {
    "sdpa": AttentionBackend(_sdpa(None)),
    "sdpa_math": AttentionBackend(_sdpa(SDPBackend.MATH)),
    "sdpa_flash": AttentionBackend(_sdpa(SDPBackend.FLASH_ATTENTION)),
    "sdpa_efficient": AttentionBackend(_sdpa(SDPBackend.EFFICIENT_ATTENTION), gpu=True),
    "sdpa_cudnn": AttentionBackend(_sdpa(SDPBackend.CUDNN_ATTENTION), gpu=True, dtypes=HALF),
    "flash2": AttentionBackend(
        _of_package("flash_attn", "flash_attn_func"),
        "pip install flash-attn --no-build-isolation",
        gpu=True,
        dtypes=HALF,
    ),
    "flash3": AttentionBackend(
        _of_package("flash_attn_interface", "flash_attn_func"),
        "FlashAttention 3 is built from source, folder hopper/ of github.com/Dao-AILab/flash-attention",
        gpu=True,
        dtypes=HALF,
    ),
    "flash4": AttentionBackend(
        _of_package("flash_attn.cute", "flash_attn_func"), "pip install flash-attn-4", gpu=True, dtypes=HALF
    ),
    "xformers": AttentionBackend(
        _of_package("xformers.ops", "memory_efficient_attention"), "pip install xformers", gpu=True
    ),
}
"""Backends by name. ``sdpa`` lets torch choose among its kernels; the others of its family force one."""


def attention_backends() -> dict[str, str | None]:
    """Every backend by name with why it cannot be used here, None for those that can. No GPU is asked."""
    return {name: backend.missing() for name, backend in BACKENDS.items()}


def attention_kernel(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Backend ``name`` as a function of queries, keys and values ``[B, T, H, D]`` to ``[B, T, H, D]``.

    Raises:
        ValueError: there is no such backend, or what it needs is not installed: the message names the package.
    """
    return BACKENDS[one_of("attention", name, BACKENDS)].kernel(name)
