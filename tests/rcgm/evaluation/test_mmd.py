import math

import pytest
import torch

from rcgm.evaluation import squared_mmd


def draw(count, size=2, shift=0.0, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + shift


def naive(x, y, widths):
    def kernel(a, b):
        squared = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        return sum(math.exp(-squared / (2 * width**2)) for width in widths) / len(widths)

    def mean(first, second):
        return sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))

    x, y = x.double().tolist(), y.double().tolist()
    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("widths", [(0.1, 0.25, 0.5, 1.0, 2.0), (0.7,)])
@pytest.mark.parametrize(("counts", "size"), [((23, 31), 2), ((40, 8), 3)])
def test_equals_the_definition(counts, size, widths):
    x, y = draw(counts[0], size), draw(counts[1], size, shift=0.5, seed=1)
    expected = naive(x, y, widths)
    for chunk in (1, 7, 1000):
        assert squared_mmd(x, y, widths, chunk) == pytest.approx(expected, rel=1e-12)


def test_default_widths():
    x, y = draw(20), draw(30, shift=1.0, seed=1)
    assert squared_mmd(x, y) == squared_mmd(x, y, (0.1, 0.25, 0.5, 1.0, 2.0))


def test_is_zero_for_equal_sets_in_any_order():
    x = draw(300)
    assert squared_mmd(x, x.clone()) == 0.0
    shuffled = x[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert squared_mmd(x, shuffled) == pytest.approx(0.0, abs=1e-15)


def test_is_symmetric_and_grows_with_the_shift():
    x = draw(200)
    values = [squared_mmd(x, draw(150, shift=shift, seed=1)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values) and values[0] < 0.02 < 0.2 < values[-1]
    y = draw(150, shift=1.0, seed=1)
    assert squared_mmd(x, y) == pytest.approx(squared_mmd(y, x), rel=1e-12)


def test_floor_of_the_docstring():
    count = 500
    x, y, z = (draw(count, seed=seed) for seed in (2, 3, 4))
    widths = (1.0,)
    squared = torch.cdist(x, z).square()
    floor = 2 / count * (1 - float((-0.5 * squared).exp().mean()))
    assert floor / 4 < squared_mmd(x, y, widths) < floor * 4


def test_flattens_images():
    x, y = draw(10, 12), draw(9, 12, seed=1)
    assert squared_mmd(x.reshape(10, 3, 2, 2), y.reshape(9, 3, 2, 2)) == squared_mmd(x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(3, 2).long()}, TypeError, "x must be a floating torch.Tensor, got torch.int64"),
        ({"y": [[0.0]]}, TypeError, "y must be a floating torch.Tensor, got list"),
        ({"x": torch.zeros(3)}, ValueError, r"x must be .* got \[3\]"),
        ({"y": torch.zeros(0, 2)}, ValueError, r"y must be .* got \[0, 2\]"),
        ({"y": torch.zeros(4, 3)}, ValueError, "x must have as many values a sample as y, 3, got 2"),
        ({"x": torch.tensor([[0.0, torch.nan]])}, ValueError, "x must be finite, got 1 of 2 values that are not"),
        ({"widths": ()}, ValueError, r"widths must be .* got \(\)"),
        ({"widths": (1.0, 0.0)}, ValueError, r"widths must be .* got \(1.0, 0.0\)"),
        ({"widths": (math.inf,)}, ValueError, r"widths must be .* got \(inf,\)"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        squared_mmd(**{"x": torch.zeros(5, 2), "y": torch.zeros(5, 2), **arguments})
