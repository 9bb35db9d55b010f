import json

import pytest
import torch

from rcgm.data import TwoMoons
from rcgm.evaluation import evaluate_points, frechet_distance, squared_mmd


@pytest.fixture(scope="module")
def clouds():
    return [TwoMoons(size=2000, seed=seed).samples for seed in range(3)]


def test_real_points_reach_the_floor(clouds):
    samples, reference, held_out = clouds
    report = evaluate_points(samples, reference, held_out)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert all(type(value) is float for value in report.values())
    assert report["squared_mmd"] == squared_mmd(samples, reference)
    assert report["frechet_distance"] == frechet_distance(samples, reference)
    assert report["squared_mmd_floor"] == squared_mmd(held_out, reference)
    assert report["squared_mmd"] < 2 * report["squared_mmd_floor"] < 0.003
    assert report["frechet_distance"] < 0.01 and report["frechet_distance_floor"] < 0.01


def test_noise_is_far_from_it(clouds):
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    report = evaluate_points(noise, clouds[0])
    assert report["squared_mmd"] > 0.02
    assert "squared_mmd_floor" not in report and "frechet_distance_floor" not in report


def test_limit_and_widths(clouds):
    samples, reference, held_out = clouds
    report = evaluate_points(samples, reference, held_out, widths=(0.3,), limit=500)
    assert report["samples"] == 500.0
    assert report["squared_mmd"] == squared_mmd(samples[:500], reference[:500], (0.3,))
    assert report["squared_mmd_floor"] == squared_mmd(held_out[:500], reference[:500], (0.3,))


def test_refuses(clouds):
    with pytest.raises(ValueError, match="limit must be at least 2, got 1"):
        evaluate_points(clouds[0], clouds[1], limit=1)
    with pytest.raises(ValueError, match="x must be finite"):
        evaluate_points(clouds[0] * torch.nan, clouds[1])
