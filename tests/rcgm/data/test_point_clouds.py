import pytest
import torch

from rcgm.data import SCurve, SwissRoll, TwoMoons

CLOUDS = [TwoMoons, SCurve, SwissRoll]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_is_standardised_and_described(cloud):
    points = cloud(size=20_000, seed=3)
    assert points.samples.shape == (20_000, 2) and points.samples.dtype == torch.float32
    assert points.samples.mean(dim=0).abs().max() < 0.03
    assert (points.samples.std(dim=0) - 1).abs().max() < 0.03
    assert points.info.shape == (2,) and points.info.kind == "points" and points.info.num_classes is None
    sample, label = points[7]
    assert torch.equal(sample, points.samples[7]) and label == -1


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_seed_decides_the_points(cloud):
    assert torch.equal(cloud(size=50, seed=1).samples, cloud(size=50, seed=1).samples)
    assert not torch.equal(cloud(size=50, seed=1).samples, cloud(size=50, seed=2).samples)


def test_small_clouds_lie_in_the_coordinates_of_large_ones():
    # Standardised by its own statistics, a cloud of 4 points would have a deviation of exactly 1.
    deviations = [float(TwoMoons(size=4, seed=seed).samples.std(dim=0, correction=0)[0]) for seed in range(5)]
    assert max(abs(deviation - 1) for deviation in deviations) > 0.05


def test_s_curve_and_roll_keep_the_coordinates_of_the_curve():
    # Along the width of either surface the points would be uniform; the curves are not: they have gaps in the plane.
    for cloud in (SCurve(size=5000), SwissRoll(size=5000)):
        cells = torch.histogramdd(cloud.samples.double(), bins=[20, 20]).hist
        assert (cells == 0).double().mean() > 0.3


def test_moons_can_be_labelled():
    moons = TwoMoons(size=1000, noise=0.0, labels=True)
    assert moons.info.num_classes == 2
    assert torch.equal(moons.labels.unique(), torch.tensor([0, 1]))
    # The upper moon of scikit-learn is class 0.
    assert moons.samples[moons.labels == 0, 1].mean() > 0.5 > moons.samples[moons.labels == 1, 1].mean()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 2.5}, TypeError, "size must be an int, got 2.5"),
        ({"size": True}, TypeError, "size must be an int, got True"),
        ({"noise": -0.1}, ValueError, "noise must be finite and at least 0, got -0.1"),
        ({"noise": float("nan")}, ValueError, "noise must be finite and at least 0, got nan"),
        ({"noise": "much"}, TypeError, "noise must be a number, got 'much'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, ValueError, "seed must be at most 4294967295 .*, got 4294967296"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        SwissRoll(**arguments)
