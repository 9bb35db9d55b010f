"""Which shape an image gets."""

import math

import pytest

from rcgm.encoding.buckets import Buckets


def test_shapes_of_aspects():
    buckets = Buckets(1024, 32)
    assert (1024, 1024) in buckets.shapes
    assert all(height % 32 == width % 32 == 0 for height, width in buckets.shapes)
    assert all(max(shape) / min(shape) <= 2 for shape in buckets.shapes)
    assert {(width, height) for height, width in buckets.shapes} == set(buckets.shapes)
    # a side is rounded by half a unit at most, of at least 32 / sqrt(2) units, less that half
    units = 1024 // 32
    assert all(abs(h * w / 1024**2 - 1) <= 0.5 / (units / math.sqrt(2) - 1) for h, w in buckets.shapes)
    assert Buckets(512, 16, "square").shapes == [(512, 512)]


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [
        (1024, 1024, (1024, 1024)),
        (4000, 4000, (1024, 1024)),
        (1500, 2000, (896, 1184)),
        (2000, 1500, (1184, 896)),
        (1000, 9000, (736, 1440)),
        (1023, 1024, None),
    ],
)
def test_an_image_gets_the_nearest_ratio(height, width, shape):
    found = Buckets(1024, 32).shape_of(height, width)
    assert found == shape
    if shape is not None:
        ratio = math.log(height / width)
        gaps = [abs(math.log(h / w) - ratio) for h, w in Buckets(1024, 32).shapes]
        assert abs(math.log(found[0] / found[1]) - ratio) == min(gaps)


def test_enlarging_has_a_limit():
    assert Buckets(512, 32).shape_of(500, 500) is None
    assert Buckets(512, 32, max_upscale=1.1).shape_of(500, 500) == (512, 512)
    assert Buckets(512, 32, "square").shape_of(511, 4000) is None


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [
        (100, 70, (96, 64)),
        (512, 512, (512, 512)),
        (1024, 1024, (512, 512)),
        (2000, 1000, (704, 352)),
        (31, 200, None),
        (32, 32, (32, 32)),
        (32, 100_000, None),  # made smaller it would be less than one multiple high
    ],
)
def test_native_resolution_is_rounded_down_within_a_number_of_tokens(height, width, shape):
    buckets = Buckets(512, 32, "native")
    assert buckets.shape_of(height, width) == shape
    assert buckets.shapes == []


def test_native_shapes_never_have_more_tokens_and_are_never_enlarged():
    buckets = Buckets(128, 16, "native")
    for height in range(1, 400, 7):
        for width in range(1, 400, 5):
            shape = buckets.shape_of(height, width)
            if shape is not None:
                assert shape[0] * shape[1] <= 128 * 128
                assert shape[0] <= height and shape[1] <= width
            else:
                assert min(height, width) < 16 or max(height, width) > 8 * min(height, width)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((500, 32), "size must be a multiple of 32"),
        ((512, 0), "multiple must be at least 1"),
        ((512, 32, "round"), "buckets must be one of aspect, square, native"),
        ((512, 32, "aspect", 0.5), "largest_ratio must be at least 1"),
        ((512, 32, "aspect", 2.0, 0.5), "max_upscale must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Buckets(*arguments)
