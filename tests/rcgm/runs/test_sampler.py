"""Samples by number: alike for every number of steps, of samples, and in whatever batch they are made."""

import pytest
import torch

from rcgm.data import DataInfo, TwoMoons
from rcgm.models import MLP, DiT
from rcgm.runs.measures import PointMeasure, measure_steps
from rcgm.runs.sampler import Method, RunSampler
from rcgm.sampling import SAMPLERS
from rcgm.seeds import Purpose

INFO = DataInfo((1, 4, 4), 3, "images", value_range=(-1.0, 1.0))
POINTS = DataInfo((2,), None, "points")


@pytest.fixture(scope="module")
def network():
    built = DiT.from_preset("nano/2", input_size=4, in_channels=1, num_classes=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return built.requires_grad_(False)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_depends_on_its_number_alone(network, name):
    sampler = RunSampler(network, INFO, method=Method(name), guidance=1.5, seed=3)
    many = sampler.draw(11, steps=4)
    assert many.shape == (11, 1, 4, 4) and many.dtype == torch.float32
    # batches of other sizes round matrix products differently
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(sampler.draw(5, steps=4), many[:5], **close)
    torch.testing.assert_close(sampler(range(7, 9), steps=4), many[7:9], **close)
    again = RunSampler(network, INFO, method=Method(name), guidance=1.5, seed=3)
    assert torch.equal(again.draw(11, steps=4), many)
    assert len(many.flatten(1).unique(dim=0)) == 11


@pytest.mark.parametrize("name", ["consistency", "mix", "ucgm"])
def test_fresh_noise_differs_between_samples_and_seeds(name):
    """Of a network that tells nothing of the noise it is given, samples differ by the fresh noise alone."""

    class Still(torch.nn.Module):
        def forward(self, x, t, r, cond=None):
            return torch.zeros_like(x)

    samples = RunSampler(Still(), POINTS, method=Method(name), seed=1).draw(64, steps=3)
    others = RunSampler(Still(), POINTS, method=Method(name), seed=2).draw(64, steps=3)
    assert len(samples.unique(dim=0)) == 64
    assert not torch.isclose(samples, others).any()


def test_uses_are_kept_apart_and_steps_compare(network):
    one, other = (RunSampler(network, INFO, purpose=use) for use in (Purpose.PREVIEW, Purpose.EVALUATION))
    assert not torch.isclose(one.draw(2, steps=1), other.draw(2, steps=1)).all()

    class Remembers(torch.nn.Module):
        def forward(self, x, t, r, cond=None):
            self.first = x.clone() if bool((t == 1).all()) else self.first
            return x

    spy = Remembers()
    starts = []
    for steps in (1, 2, 4):
        RunSampler(spy, POINTS).draw(3, steps=steps)
        starts.append(spy.first)
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])


def test_labels_are_in_turn(network):
    assert RunSampler(network, INFO).labels(range(2, 9)).tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert RunSampler(network, INFO, classes=[1]).labels(range(7)).tolist() == [1] * 7
    assert RunSampler(MLP(dim=2), POINTS).labels(range(3)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [1, 5]}, r"classes must be from 0 to 2, got \[5\]"),
        ({"classes": []}, r"classes must be from 0 to 2, got \[\]"),
        ({"guidance": float("nan")}, "guidance must be a finite number, got nan"),
        ({"guidance": float("inf")}, "guidance must be a finite number, got inf"),
    ],
)
def test_refuses(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        RunSampler(network, INFO, **arguments)


def test_networks_without_classes_have_no_guidance_and_no_classes():
    network = MLP(dim=2).train()
    samples = RunSampler(network, POINTS).draw(5, steps=2)
    assert samples.shape == (5, 2)
    assert network.training
    with pytest.raises(ValueError, match="guidance must be 1"):
        RunSampler(network, POINTS, guidance=2.0)
    with pytest.raises(ValueError, match="no classes"):
        RunSampler(network, POINTS, classes=[1])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        RunSampler(network, POINTS).draw(0, steps=1)


def test_what_depends_on_real_points_alone_is_computed_once(monkeypatch):
    from rcgm.evaluation import mmd

    measure, made = PointMeasure(TwoMoons(size=400)), []
    original = mmd.KernelReference._mean_kernel

    def counted(self, a, b):
        made.append((len(a), len(b)))
        return original(self, a, b)

    monkeypatch.setattr(mmd.KernelReference, "_mean_kernel", counted)
    report = measure_steps(measure, RunSampler(MLP(dim=2), POINTS), steps=(1, 2, 4), count=50)
    assert set(report) == {"1", "2", "4"}
    assert all("squared_mmd_floor" in numbers for numbers in report.values())
    assert made.count((200, 200)) == 1  # reference with itself
    assert made.count((50, 50)) == 3 + 1 and made.count((50, 200)) == 3 + 1  # three times samples, once the floor
