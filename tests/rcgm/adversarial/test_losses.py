"""Adversarial losses, against their formulas in plain numbers."""

import math

import pytest
import torch

from rcgm.adversarial import LOSSES

LOGITS = ([[0.3, -2.0], [4.0, 0.0]], [[0.5, 1.5], [-1.0, 2.0]])  # of fakes and real samples


def hinge(fake: float, real: float) -> tuple[float, float]:
    return max(0.0, 1 + fake) + max(0.0, 1 - real), -fake


def relativistic(fake: float, real: float) -> tuple[float, float]:
    return math.log(1 + math.exp(fake - real)), math.log(1 + math.exp(real - fake))


@pytest.mark.parametrize(("name", "formula"), [("hinge", hinge), ("relativistic", relativistic)])
def test_losses_are_means_over_the_tokens_of_a_sample(name, formula):
    fake, real = (torch.tensor(values, dtype=torch.float64) for values in LOGITS)
    expected = [[formula(*pair) for pair in zip(*rows, strict=True)] for rows in zip(*LOGITS, strict=True)]
    expected = torch.tensor(expected, dtype=torch.float64).mean(1)
    loss = LOSSES[name]
    torch.testing.assert_close(loss.of_discriminator(fake, real), expected[:, 0], rtol=1e-14, atol=0)
    torch.testing.assert_close(loss.of_generator(fake, real), expected[:, 1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_where_logits_are_large(name):
    fake, real = torch.full((1, 2), 1e4), torch.full((1, 2), -1e4)
    for loss in (LOSSES[name].of_discriminator, LOSSES[name].of_generator):
        assert loss(fake, real).isfinite().all() and loss(real, fake).isfinite().all()
