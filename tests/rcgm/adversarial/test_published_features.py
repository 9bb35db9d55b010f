"""Features of published networks have the tokens of the image."""

import pytest
import torch

pytest.importorskip("diffusers")

from rcgm.adversarial import Features
from rcgm.networks import NETWORKS
from rcgm.roles import lora_role
from tests.support.tiny_networks import FAMILIES, WORDS

# Z-Image joins the tokens of image and caption, each filled up to a multiple of 32
JOINED = {"z_image"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_every_family(family, adapted):
    case = FAMILIES[family]
    network = NETWORKS[family](case.build()).eval()
    if adapted:
        pytest.importorskip("peft")
        network = lora_role(network, rank=2).without_adapter()
    batch = 2
    x = torch.randn(batch, *case.latents, requires_grad=True)
    features = Features(network, 99)(x, torch.full((batch,), 0.5), case.cond(batch))
    assert len(features) >= 2 or family == "sana"
    tokens = {feature.shape[1] for feature in features}
    if family not in JOINED:
        assert len(tokens) == 1 and tokens != {WORDS}
        cells = x[0, 0].numel()
        assert cells % tokens.pop() == 0
    # each feature, by itself, depends on the image
    for feature in features:
        (gradient,) = torch.autograd.grad(feature.float().square().sum(), x, retain_graph=True)
        assert gradient.abs().sum() > 0
