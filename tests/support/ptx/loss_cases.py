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

# What a loss is split into on some device: the case, the device, and the kernels with the blocks of their clusters.
SPLITS = {
    "a block a sample": (Case(6, 4096, (BF16,) * 3, **METRICS["cosine"]), {}, [("on_chip_kernel", 1)]),
    "two blocks a sample": (Case(1, 16385, (F32,) * 3, **METRICS["normalized"]), {}, [("on_chip_kernel", 2)]),
    "eight blocks a sample": (Case(1, 100001, (BF16, F32, F16), **METRICS["cosine"]), {}, [("on_chip_kernel", 8)]),
    "sixteen blocks a sample": (
        Case(1, 200000, (F32,) * 2, reduction="none", **METRICS["barron"]),
        {},
        [("on_chip_kernel", 16)],
    ),
    "a part of a device": (
        Case(1, 40000, (F32,) * 3, **METRICS["cosine"]),
        {"largest_cluster": 2},
        [("on_chip_kernel", 2)],
    ),
    "no clusters": (
        Case(2, 40000, (F32,) * 3, **METRICS["cosine"]),
        {"clusters_exist": False},
        [("on_chip_kernel", 1)],
    ),
    "two passes": (
        Case(1, 70000, (BF16,) * 3, **METRICS["cosine"]),
        {"clusters_exist": False},
        [("stream_kernel", 1), ("stream_kernel", 1)],
    ),
    "two passes, double": (
        Case(2, 7001, (F64,) * 3, **METRICS["barron"]),
        {"clusters_exist": False, "shared": 16 << 10},
        [("stream_kernel", 1), ("stream_kernel", 1)],
    ),
    "streamed": (Case(3, 17003, (F16,) * 4), {}, [("stream_kernel", 1)]),
    "sums alone": (
        Case(2, 20000, (F32,) * 3, **METRICS["cosine"], with_gradient=False),
        {},
        [("stream_kernel", 1)],
    ),
    "channels, a block a sample": (Case(5, 4096, (BF16,) * 3, channels=4, **CHANNELS), {}, [("channels_kernel", 1)]),
    "channels, two blocks": (Case(2, 4 * 4099, (F32,) * 3, channels=4, **CHANNELS), {}, [("channels_kernel", 2)]),
    "channels, eight blocks": (
        Case(1, 102400, (BF16, F32, F16), channels=16, **CHANNELS),
        {},
        [("channels_kernel", 8)],
    ),
    "channels, sixteen blocks": (
        Case(1, 150000, (F32,) * 2, channels=3, **ALONE),
        {},
        [("channels_kernel", 16)],
    ),
    "channels, a large block": (
        Case(2, 16 * 2312, (BF16,) * 4, channels=16, weight=True, **CHANNELS),
        {"clusters_exist": False},
        [("channels_kernel", 1)],
    ),
    "channels, two passes": (
        Case(2, 16 * 2056, (F16,) * 3, channels=16, **CHANNELS),
        {"clusters_exist": False, "shared": 48 << 10},
        [("channels_kernel", 1), ("channels_kernel", 1)],
    ),
    "channels, at once": (
        Case(2, 16 * 2050, (F32,) * 3, channels=16, **ALONE),
        {"clusters_exist": False, "shared": 48 << 10},
        [("channels_kernel", 1)],
    ),
}
