"""Losses whose machine code is run: every dtype, metric, order and layout, in each way to split the work."""

from __future__ import annotations

import math

from tests.support.cuda_cases import ALONE, BF16, CHANNELS, DTYPES, F16, F32, F64, METRICS, Case

ORDERS = (0, 1, 2, 5, 8, 12)


def dtype_cases(sizes: dict[int, int]) -> dict[str, Case]:
    """Every dtype with every size; ``sizes`` gives the batch of each."""
    return {
        f"{name}, {batch} x {size}": Case(batch, size, dtypes, weight=True, reduction=("mean", "sum", "none")[size % 3])
        for name, dtypes in DTYPES.items()
        for size, batch in sizes.items()
    }


def metric_cases(sizes: dict[int, int]) -> dict[str, Case]:
    """Every metric with every size, in the dtypes in turn."""
    formats = [(BF16,) * 3, (F16,) * 3, (F32,) * 3]
    return {
        f"{name}, {batch} x {size}": Case(batch, size, formats[(k + size) % 3], scale=True, **options)
        for k, (name, options) in enumerate(METRICS.items())
        for size, batch in sizes.items()
    }


def order_cases(sizes: dict[int, int]) -> dict[str, Case]:
    """Every order with every size; the prediction is in the residual of all but the odd orders."""
    cases = {}
    for order in ORDERS:
        for size, batch in sizes.items():
            with_prediction = order % 2 == 0
            dtypes = (BF16,) + (F16,) * (order + (not with_prediction)) + (F32,)
            cases[f"order {order}, {batch} x {size}"] = Case(
                batch, size, dtypes, times=True, pred_in_residual=with_prediction, reduction="none", **METRICS["l2"]
            )
    return cases


def channel_cases(sizes: dict[tuple[int, int], int]) -> dict[str, Case]:
    """A cosine at each position; ``sizes`` gives the batch for (channels, positions)."""
    cases = {}
    for k, ((channels, positions), batch) in enumerate(sizes.items()):
        for name, options in (("after the sums", CHANNELS), ("alone", ALONE)):
            dtypes = list(DTYPES.values())[k % len(DTYPES)]
            cases[f"{name}, {batch} x {channels} x {positions}"] = Case(
                batch, channels * positions, dtypes, channels=channels, weight=True, **options
            )
    return cases


OTHER_CASES = {
    "without gradient": Case(3, 700, (BF16,) * 3, with_gradient=False, weight=True, **METRICS["cosine"]),
    "without gradient, long": Case(2, 17000, (F32,) * 3, with_gradient=False),
    "without a clip": Case(3, 900, (F32,) * 3, clip=math.inf, pred_coeff=True),
    "numbers of 64 bits": Case(3, 900, (F32,) * 3, pred_coeff=True, scale=True, weight=True, scalar_dtype=F64),
}
