import pytest
import torch

from rcgm.data import Digits, TwoMoons, examples


def test_samples_have_the_classes_asked_for_and_differ():
    digits = Digits()
    labels = torch.tensor([3, 7, 3, 0, 3])
    found = examples(digits, 5, labels)
    places = [(digits.samples == image).flatten(1).all(1).nonzero().flatten() for image in found]
    assert [set(digits.labels[place].tolist()) for place in places] == [{3}, {7}, {3}, {0}, {3}]
    assert not torch.equal(found[0], found[2]) and not torch.equal(found[2], found[4])


def test_without_classes_they_are_spread_over_the_data():
    moons = TwoMoons(size=100, seed=0)
    assert torch.equal(examples(moons, 4), torch.stack([moons[index][0] for index in (0, 25, 50, 75)]))


def test_classes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="got 10, of which it has no sample"):
        examples(Digits(), 2, torch.tensor([1, 10]))
    with pytest.raises(ValueError, match="labels must be None"):
        examples(type("Unlabelled", (), {"labels": None})(), 1, torch.tensor([0]))
