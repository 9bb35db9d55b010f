"""What the Triton kernels share: conversions, names of dtypes, and the choice of blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
BLOCK = 4096  # elements that one program holds: 16 kB a tensor in float32, over 4 to 8 warps


def warps(elements: int) -> int:
    """Warps for a program that holds so many elements: 16 to 32 a thread."""
    return max(1, min(16, elements // 512))


def block_for(size: int, most: int = BLOCK) -> int:
    """Columns of a block for samples of ``size`` elements."""
    return min(triton.next_power_of_2(max(size, 1)), most)


@triton.jit
def widened(values, COMPUTE: tl.constexpr):
    """Stored values in the compute dtype; 16-bit formats by way of float32, the conversion that every device has."""
    return values.to(tl.float64) if values.dtype == tl.float64 else values.to(tl.float32).to(COMPUTE)


@triton.jit
def narrowed(values, POINTER):
    """Computed values in the dtype that ``POINTER`` points to, by way of float32 unless that is float64."""
    element: tl.constexpr = POINTER.dtype.element_ty
    return values.to(tl.float64) if element == tl.float64 else values.to(tl.float32).to(element)
