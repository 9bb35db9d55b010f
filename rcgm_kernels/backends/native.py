"""How tensors and options are handed to the C++ and CUDA extensions: as addresses and numbers.

In csrc/common, arrays.h has the structs and numbers, and fields.h reads the tuples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.plan import LossPlan

DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
NO_ARRAY = (0, 0, 0)
ONES = (0, 0, 0, False)


def array(tensor: Tensor) -> tuple[int, int, int]:
    """Address, distance between samples in elements, dtype."""
    return tensor.data_ptr(), tensor.stride(0), DTYPES[tensor.dtype]


def numbers(values: Tensor | None) -> tuple[int, int, int, bool]:
    """Per-sample numbers, [rows, batch], [batch] or one for all: address, strides, whether float64."""
    if values is None:
        return ONES
    row_stride, stride = (0, 0, *values.stride())[-2:]
    return values.data_ptr(), row_stride, stride, values.dtype == torch.float64


def loss_arguments(inputs: LossInputs, plan: LossPlan, results: tuple[Tensor, Tensor, Tensor]) -> tuple:
    """Batch, size, the inputs with dense samples, the options; then where loss, gradient and scales go (0: nowhere)."""
    pred, terms, *values = inputs
    loss, gradient, scales = results
    return (
        plan.batch,
        plan.size,
        array(pred),
        tuple(map(array, terms)),
        *map(numbers, values),
        plan.numbers,
        loss.data_ptr(),
        array(gradient) if plan.options.with_gradient else NO_ARRAY,
        scales.data_ptr() if plan.scaled else 0,
    )


def ema_entries(
    ema: Sequence[Tensor], params: Sequence[Tensor], copies: Sequence[Tensor]
) -> list[tuple[int, int, int, int, int, int, int]]:
    """For each tensor of a model: addresses of average, parameter and copy (0: none), elements, dtype of each."""
    return [
        (
            average.data_ptr(),
            param.data_ptr(),
            copies[index].data_ptr() if copies else 0,
            average.numel(),
            DTYPES[average.dtype],
            DTYPES[param.dtype],
            DTYPES[copies[index].dtype] if copies else 0,
        )
        for index, (average, param) in enumerate(zip(ema, params, strict=True))
    ]
