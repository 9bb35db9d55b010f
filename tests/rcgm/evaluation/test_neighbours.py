import pytest
import torch

from rcgm.data import Digits
from rcgm.evaluation import check_neighbours, nearest_distances


@pytest.fixture(scope="module")
def halves():
    samples = Digits().samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return samples[order[:900]], samples[order[900:]]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_distances_equal_the_definition(chunk):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 5, generator=generator), torch.randn(31, 5, generator=generator)
    pairs = (x[:, None].double() - y[None].double()).norm(dim=2)
    torch.testing.assert_close(nearest_distances(x, y, chunk=chunk), pairs.min(dim=1).values)
    own = (y[:, None].double() - y[None].double()).norm(dim=2).fill_diagonal_(torch.inf)
    torch.testing.assert_close(nearest_distances(y, y, leave_one_out=True, chunk=chunk), own.min(dim=1).values)


def test_copies_have_distance_zero_however_far_from_the_origin():
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) + 1000.0
    assert nearest_distances(x, x).max() == 0.0


def test_held_out_digits_are_not_flagged(halves):
    training, held_out = halves
    report = check_neighbours(held_out, training)
    assert 0.9 < report.median_ratio < 1.1
    assert report.fraction_close < 0.04
    assert report.median_ratio == pytest.approx(report.median_distance / report.real_median_distance)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_copies_are_flagged(halves, noise):
    training, _ = halves
    copies = training[:300] + noise * torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    report = check_neighbours(copies, training)
    assert report.median_ratio < 0.2
    assert report.fraction_close > 0.99


def test_a_few_copies_among_held_out_digits_show(halves):
    training, held_out = halves
    report = check_neighbours(torch.cat([training[:100], held_out[:400]]), training)
    assert 0.2 <= report.fraction_close < 0.25


def test_the_threshold_is_the_quantile_of_real_distances(halves):
    training, _ = halves
    report = check_neighbours(training[:5], training, quantile=0.25, chunk=128)
    real = nearest_distances(training, training, leave_one_out=True)
    assert (real <= report.threshold).double().mean() == pytest.approx(0.25, abs=0.01)
    assert report.real_median_distance == float(real.median())


def test_copies_are_found_among_duplicates():
    training = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    training[:20] = training[0]
    report = check_neighbours(training[50:], training)
    assert report.threshold == 0.0 and report.fraction_close == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"samples": torch.zeros(3, 2).long()}, TypeError, "samples must be a floating torch.Tensor, got torch.int64"),
        ({"samples": torch.zeros(3, 4)}, ValueError, "samples must have as many values a sample as training, 2, got 4"),
        ({"samples": torch.zeros(0, 2)}, ValueError, r"samples must be \[N, .* got \[0, 2\]"),
        (
            {"samples": torch.full((1, 2), torch.nan)},
            ValueError,
            "samples must be finite, got 2 of 2 values that are not",
        ),
        ({"training": torch.zeros(1, 2)}, ValueError, r"training must be .* at least 2, got \[1, 2\]"),
        ({"training": torch.zeros(9, 2)}, ValueError, "training holds mostly identical samples"),
        ({"quantile": 0.0}, ValueError, "quantile must lie in .* got 0.0"),
        ({"quantile": 1.0}, ValueError, "quantile must lie in .* got 1.0"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
    ],
)
def test_refuses(arguments, error, message):
    samples, training = torch.zeros(3, 2), torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(error, match=message):
        check_neighbours(**{"samples": samples, "training": training, **arguments})


def test_leave_one_out_needs_the_set_itself():
    with pytest.raises(ValueError, match="samples holds 3 rows and reference 4; leave_one_out needs the same number"):
        nearest_distances(torch.zeros(3, 2), torch.zeros(4, 2), leave_one_out=True)
    with pytest.raises(ValueError, match="at least 2"):
        nearest_distances(torch.zeros(1, 2), torch.zeros(1, 2), leave_one_out=True)
