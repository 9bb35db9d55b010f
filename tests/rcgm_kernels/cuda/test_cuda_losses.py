"""The losses of the CUDA backend in every form and every way to split the work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.support.cuda_cases import (
    ALONE,
    BF16,
    CHANNELS,
    DTYPES,
    F16,
    F32,
    F64,
    METRICS,
    Case,
    Place,
    assert_same,
    check_loss,
)

SIZES = (1, 2, 7, 8, 64, 1000, 1025, 4096, 20000)


@pytest.mark.parametrize("turn", [0, 3])
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_loss_of_coefficients(place: Place, size: int, dtypes: str, turn: int) -> None:
    """Every size with every dtype, with two metrics each: so every size and every dtype also meets every metric."""
    seed = SIZES.index(size) + list(DTYPES).index(dtypes) + turn
    batch = 5 if size > 2 else 300
    extras = {"pred_coeff": seed % 2 == 0, "scale": seed % 3 == 0, "weight": seed % 3 == 1}
    extras["scalar_dtype"] = F64 if seed % 2 else F32
    extras["reduction"] = ("mean", "sum", "none")[size % 3]
    extras |= list(METRICS.values())[seed % len(METRICS)]
    check_loss(place, Case(batch, size, DTYPES[dtypes], seed=seed, **extras))


@pytest.mark.parametrize("pred_in_residual", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2, 5, 9, 29])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_loss_of_knots(place: Place, metric: str, order: int, pred_in_residual: bool) -> None:
    dtypes = (BF16,) + (F16,) * (order + (not pred_in_residual)) + (F32,)
    case = Case(4, 96, dtypes, times=True, pred_in_residual=pred_in_residual, reduction="none", **METRICS[metric])
    check_loss(place, case)
    check_loss(place, replace(case, size=5000, scalar_dtype=F64))


@pytest.mark.parametrize("tensors", [1, 2, 32])
@pytest.mark.parametrize("pred_in_residual", [True, False])
def test_any_number_of_tensors(place: Place, tensors: int, pred_in_residual: bool) -> None:
    dtypes = (F32,) * (tensors + (not pred_in_residual))
    for size in (3, 24, 3000):
        check_loss(place, Case(3, size, dtypes, pred_in_residual=pred_in_residual, **METRICS["pseudo_huber"]))


@pytest.mark.parametrize("clip", [0.25, math.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [6, 512, 9000])
@pytest.mark.parametrize("metric", ["l2", "barron"])
def test_loss_without_gradient(place: Place, metric: str, size: int, reduction: str, clip: float) -> None:
    extras = METRICS[metric] | {"reduction": reduction, "clip": clip}
    check_loss(place, Case(7, size, (BF16,) * 3, with_gradient=False, weight=True, **extras))


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize(("channels", "positions"), [(2, 2), (4, 9), (5, 36), (3, 64), (128, 3), (37, 40), (4, 1024)])
def test_cosine_over_channels(place: Place, channels: int, positions: int, dtypes: str) -> None:
    extras = CHANNELS if (channels + positions) % 2 else ALONE
    extras = extras | {"reduction": ("mean", "sum", "none")[positions % 3], "weight": True, "pred_coeff": True}
    check_loss(place, Case(3, channels * positions, DTYPES[dtypes], channels=channels, **extras))


# (channels, batch, size, dtypes, extras, emulated device, path, blocks a cluster)
CHANNEL_PATHS = {
    "a block a sample": (4, 9, 4096, (BF16,) * 3, CHANNELS, {}, "on chip", 1),
    "two blocks a sample": (4, 2, 4 * 4099, (F32,) * 3, CHANNELS, {}, "on chip", 2),
    "eight blocks a sample": (16, 1, 102400, (BF16, F32, F16), CHANNELS, {}, "on chip", 8),
    "sixteen blocks a sample": (3, 2, 150000, (F32,) * 2, ALONE, {}, "on chip", 16),
    "a large block": (16, 2, 16 * 2312, (BF16,) * 4, CHANNELS, {"cluster": 1}, "on chip", 1),
    "two passes": (16, 3, 64000, (F16,) * 3, CHANNELS, {"cluster": 1, "shared": 100 << 10}, "two passes", 1),
    "nothing kept": (8, 2, 8 * 2050, (F32,) * 3, CHANNELS, {"cluster": 1, "shared": 48 << 10}, "two passes", 1),
    "two passes, double": (16, 2, 24000, (F64,) * 3, CHANNELS, {"cluster": 1, "shared": 150 << 10}, "two passes", 1),
    "at once": (16, 3, 64000, (F32,) * 3, ALONE, {"cluster": 1, "shared": 100 << 10}, "stream", 1),
    "at once, nothing kept": (600, 2, 600 * 40, (F32,) * 3, ALONE, {"cluster": 1, "shared": 48 << 10}, "stream", 1),
    "sums alone": (16, 2, 48000, (F32,) * 3, CHANNELS | {"with_gradient": False}, {}, "on chip", 2),
}


def check_split(place: Place, case: Case, device: dict[str, int], path: str, cluster: int) -> None:
    """The loss of ``case`` is right, takes this path, and has the same bits in whatever order the threads come."""
    place.emulate(**device)
    first = check_loss(place, case)
    if place.library is not None:
        got_path, _, got_cluster = place.path()
        assert (got_path, got_cluster) == (path, cluster)
    place.emulate(**device, backwards=True)
    assert_same(first, check_loss(place, case))


@pytest.mark.parametrize("name", CHANNEL_PATHS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_way_to_split_channels(place: Place, name: str, reduction: str) -> None:
    channels, batch, size, dtypes, extras, device, path, cluster = CHANNEL_PATHS[name]
    case = Case(batch, size, dtypes, channels=channels, weight=True, scale=True, reduction=reduction, **extras)
    check_split(place, case, device, path, cluster)


# (batch, size, dtypes, extras, emulated device, path, blocks a cluster)
PATHS = {
    "a lane a sample": (700, 2, (F32,) * 3, METRICS["pseudo_huber"], {}, "on chip", 1),
    "a warp a sample": (20, 256, (BF16,) * 3, METRICS["pseudo_huber"], {}, "on chip", 1),
    "two samples a block": (7, 1024, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 1),
    "a block a sample": (6, 4096, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 1),
    "two blocks a sample": (1, 16384, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 2),
    "two blocks, odd": (2, 16385, (F32,) * 3, METRICS["normalized"], {}, "on chip", 2),
    "eight blocks a sample": (2, 100000, (BF16, F32, F16), METRICS["cosine"], {}, "on chip", 8),
    "sixteen blocks a sample": (2, 200000, (F32,) * 2, METRICS["barron"], {}, "on chip", 16),
    "no clusters, on chip": (2, 40000, (F32,) * 3, METRICS["cosine"], {"cluster": 1}, "on chip", 1),
    "no clusters, two passes": (3, 70000, (BF16,) * 3, METRICS["cosine"], {"cluster": 1}, "two passes", 1),
    "two passes, odd": (3, 5001, (F16,) * 3, METRICS["barron"], {"cluster": 1, "shared": 16 << 10}, "two passes", 1),
    "two passes, double": (2, 7000, (F64,) * 3, METRICS["cosine"], {"cluster": 1, "shared": 16 << 10}, "two passes", 1),
    "a small part of a device": (1, 40000, (F32,) * 3, METRICS["cosine"], {"cluster": 2}, "on chip", 2),
    "stream, a block a sample": (40, 1500, (F32,) * 3, {}, {}, "stream", 1),
    "stream, blocks of a sample": (2, 70000, (BF16,) * 4, {}, {}, "stream", 1),
    "stream, many chunks": (1, 150001, (F16,) * 2, {}, {"multiprocessors": 132}, "stream", 1),
    "sums alone": (2, 50000, (F32,) * 3, METRICS["cosine"] | {"with_gradient": False}, {}, "stream", 1),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_way_to_split_the_work(place: Place, name: str, reduction: str) -> None:
    batch, size, dtypes, extras, device, path, cluster = PATHS[name]
    case = Case(batch, size, dtypes, weight=True, scale=True, reduction=reduction, **extras)
    check_split(place, case, device, path, cluster)


@pytest.mark.parametrize("size", [1_200_000, 8_000_000])
def test_samples_larger_than_a_cluster(place: Place, size: int) -> None:
    if place.library is not None:
        pytest.skip("for a real device; the emulated one has smaller limits for this")
    check_loss(place, Case(2, size, (BF16,) * 3, **METRICS["cosine"]))
    assert place.path()[0] == "two passes"
