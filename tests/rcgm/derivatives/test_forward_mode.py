"""Forward-mode AD through attention: what this version of PyTorch says, and that the estimator avoids it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.derivatives import ESTIMATORS
from rcgm.models import DiT
from rcgm.objectives import MeanFlow

FUSED = "forward AD with _scaled_dot_product_flash_attention_for_cpu that does not support it"


@pytest.fixture(scope="module")
def network() -> DiT:
    generator = torch.Generator().manual_seed(0)
    return DiT.from_preset("nano/2", input_size=8, in_channels=1, generator=generator)


@pytest.mark.parametrize("grad", [True, False])
def test_flash_attention_has_no_forward_mode_rule(network, grad):
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.5])

    def derivative(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend), torch.set_grad_enabled(grad):
            tangents = (x, torch.ones_like(t), torch.zeros_like(t))
            return torch.func.jvp(network, (x, t, t / 2), tangents)[1]

    with pytest.raises(NotImplementedError, match=FUSED):
        derivative(SDPBackend.FLASH_ATTENTION)
    assert derivative(SDPBackend.MATH).isfinite().all()


@pytest.mark.parametrize("derivative", ["jvp", "central"])
def test_both_estimators_train_where_the_caller_asks_for_flash_attention(network, derivative):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        output = MeanFlow(derivative=ESTIMATORS[derivative]())(network, x, generator=generator)
    assert output.loss.isfinite()


def test_a_network_without_forward_mode_rule_is_an_error_that_says_what_to_choose(network):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return 2 * x

        @staticmethod
        def backward(context, gradient):
            return 2 * gradient

    def student(x, t, r, cond):
        return Doubled.apply(network(x, t, r, cond))

    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    with pytest.raises(ValueError, match=r"jvp does not work with the student network: .* Use derivative central"):
        MeanFlow(derivative=ESTIMATORS["jvp"]())(student, x, generator=generator)
    assert MeanFlow()(student, x, generator=generator).loss.isfinite()
