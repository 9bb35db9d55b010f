import pytest
import torch

from rcgm.data import DataInfo, Digits, InMemoryDataset

POINTS = DataInfo(shape=(2,), num_classes=None, kind="points")
LABELLED = DataInfo(shape=(2,), num_classes=3, kind="points")


def test_digits():
    digits = Digits()
    assert len(digits) == 1797
    assert digits.samples.shape == (1797, 1, 8, 8) and digits.samples.dtype == torch.float32
    assert float(digits.samples.min()) == -1.0 and float(digits.samples.max()) == 1.0
    # The pixels are the integers 0 to 16.
    assert torch.equal((digits.samples + 1) * 8, ((digits.samples + 1) * 8).round())
    assert digits.info == DataInfo((1, 8, 8), 10, "images", tuple("0123456789"), (-1.0, 1.0))
    assert torch.bincount(digits.labels).min() > 170
    image, label = digits[5]
    assert image.shape == (1, 8, 8) and label == int(digits.labels[5]) and type(label) is int


def test_take_equals_indexing():
    data = InMemoryDataset(torch.randn(9, 2), torch.arange(9) % 3, LABELLED)
    samples, labels = data.take(torch.tensor([8, 0, 4]))
    for row, index in enumerate([8, 0, 4]):
        assert torch.equal(samples[row], data[index][0]) and int(labels[row]) == data[index][1]


@pytest.mark.parametrize(
    ("samples", "labels", "info", "error", "message"),
    [
        (torch.zeros(3, 2).double(), None, POINTS, TypeError, "samples must be torch.float32, got torch.float64"),
        (torch.zeros(3, 4), None, POINTS, ValueError, r"samples must be \[N, 2\] .*, got \[3, 4\]"),
        (torch.zeros(0, 2), None, POINTS, ValueError, r"samples must be \[N, .* got \[0, 2\]"),
        (torch.full((3, 2), torch.nan), None, POINTS, ValueError, "samples must be finite"),
        (
            torch.zeros(3, 2),
            torch.zeros(3).long(),
            POINTS,
            ValueError,
            "labels and num_classes must both be given, or neither, got given and None",
        ),
        (
            torch.zeros(3, 2),
            None,
            LABELLED,
            ValueError,
            "labels and num_classes must both be given, or neither, got None and 3",
        ),
        (torch.zeros(3, 2), torch.zeros(3), LABELLED, TypeError, "labels must be torch.int64, got torch.float32"),
        (
            torch.zeros(3, 2),
            torch.zeros(2).long(),
            LABELLED,
            ValueError,
            r"labels must be \[3\], one a sample, got \[2\]",
        ),
        (torch.zeros(3, 2), torch.tensor([0, 1, 3]), LABELLED, ValueError, "labels must be from 0 to 2, .* got 0 to 3"),
        (
            torch.zeros(3, 2),
            torch.tensor([0, 1, -1]),
            LABELLED,
            ValueError,
            "labels must be from 0 to 2, .* got -1 to 1",
        ),
    ],
)
def test_refuses_tensors(samples, labels, info, error, message):
    with pytest.raises(error, match=message):
        InMemoryDataset(samples, labels, info)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "sound"}, ValueError, "kind must be one of points, images, got 'sound'"),
        ({"shape": (2, 2)}, ValueError, r"shape must be a tuple of 1 sizes for points, got \(2, 2\)"),
        ({"shape": [2]}, ValueError, r"shape must be a tuple of 1 sizes for points, got \[2\]"),
        ({"kind": "images"}, ValueError, "a tuple of 3 sizes for images"),
        ({"shape": (0,)}, ValueError, "each size in shape must be at least 1, got 0"),
        ({"shape": (2.0,)}, TypeError, "each size in shape must be an int, got 2.0"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        (
            {"num_classes": 2, "class_names": ("a",)},
            ValueError,
            "class_names must hold one name a class, got 1 with num_classes 2",
        ),
        ({"value_range": (1.0, -1.0)}, ValueError, r"value_range must be .*, got \(1.0, -1.0\)"),
    ],
)
def test_info_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        DataInfo(**{"shape": (2,), "num_classes": None, "kind": "points", **arguments})
