import pytest
import torch

from rcgm.training.health import LossWindow, NonFiniteError, all_finite


def test_window_gives_the_losses_in_order_until_cleared():
    window = LossWindow([0.5])
    window.add(2, torch.tensor(1.0))
    window.add(3, torch.tensor(2.0))
    assert window.read() == [0.5, 1.0, 2.0]
    assert window.read() == [0.5, 1.0, 2.0]
    window.clear()
    assert window.read() == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_step_is_named(bad):
    window = LossWindow()
    for step, value in ((4, 1.0), (5, bad), (6, bad)):
        window.add(step, torch.tensor(value))
    with pytest.raises(NonFiniteError, match="the loss of step 5 is"):
        window.read()


def test_all_finite():
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan")])
    assert all_finite([good, torch.tensor([1, 2])])
    assert all_finite([])
    assert not all_finite([good, bad])
