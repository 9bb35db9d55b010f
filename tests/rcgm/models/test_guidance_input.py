"""Guidance as an input of the networks and in sampling, and negative times."""

from __future__ import annotations

import pytest
import torch

from rcgm.config import InitFromConfig
from rcgm.models import MLP, DiT
from rcgm.runs.initial_weights import begin_from
from rcgm.sampling import SAMPLERS
from rcgm.transports import Linear
from tests.support.rounding import assert_rounded

KINDS = {
    "dit": lambda **more: DiT(
        input_size=4, in_channels=2, patch_size=2, hidden_size=8, depth=1, num_heads=2, num_classes=3,
        frequency_size=8, **more,
    ),
    "mlp": lambda **more: MLP(dim=2, width=8, depth=2, num_classes=3, frequency_size=8, **more),
}  # fmt: skip


def drawn(kind: str, **more):
    network = KINDS[kind](**more)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def point(kind: str):
    generator = torch.Generator().manual_seed(1)
    shape = (4, 2, 4, 4) if kind == "dit" else (4, 2)
    return torch.randn(shape, generator=generator), torch.rand(4, generator=generator), torch.zeros(4)


def told(scale: float, low: float, high: float) -> dict:
    return {"labels": torch.tensor([0, 1, 2, 3]), "guidance": torch.tensor([[scale, low, high]]).expand(4, 3)}


@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_interval_change_the_prediction_and_take_gradients(kind):
    network, at = drawn(kind, guidance_input=True), point(kind)
    plain = network(*at, told(1.0, 0.0, 1.0))
    for other in (told(2.0, 0.0, 1.0), told(1.0, 0.3, 1.0), told(1.0, 0.0, 0.7)):
        assert (network(*at, other) - plain).abs().max() > 1e-3
    # labels alone stand for no guidance
    assert torch.equal(network(*at, told(1.0, 0.0, 1.0)["labels"]), plain)
    plain.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.guidance_embedder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_is_the_same_for_every_guidance(kind):
    network = KINDS[kind](guidance_input=True)
    for name, parameter in network.named_parameters():
        if not name.startswith("guidance_embedder."):
            torch.nn.init.normal_(parameter, std=0.3)
    at = point(kind)
    assert torch.equal(network(*at, told(5.0, 0.2, 0.6)), network(*at, told(1.0, 0.0, 1.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_weights_of_a_network_without_it(kind, tmp_path):
    from safetensors.torch import save_file

    without, network, at = drawn(kind), KINDS[kind](guidance_input=True), point(kind)
    save_file(without.state_dict(), tmp_path / "weights.safetensors")
    begin_from(InitFromConfig(path=str(tmp_path / "weights.safetensors"), layout="rcgm"), network, Linear())
    assert torch.equal(network(*at, told(3.0, 0.0, 1.0)), without(*at, told(3.0, 0.0, 1.0)["labels"]))


def test_bad_guidance():
    network, at = KINDS["mlp"](guidance_input=True), point("mlp")
    with pytest.raises(ValueError, match=r"guidance of the shape \[4, 3\], got \[4, 2\]"):
        network(*at, {"labels": torch.arange(4), "guidance": torch.ones(4, 2)})
    with pytest.raises(TypeError, match="guidance_input must be True or False, got 'yes'"):
        KINDS["mlp"](guidance_input="yes")


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_tells_the_network_and_takes_one_evaluation(name):
    network, labels = drawn("mlp", guidance_input=True), torch.tensor([0, 1, 2, 3])
    calls = []
    network.register_forward_pre_hook(lambda module, given: calls.append((len(given[0]), given[3]["guidance"])))
    noise, low, high = torch.randn(4, 2, generator=torch.Generator().manual_seed(2)), 0.2, 0.9
    SAMPLERS[name](network, noise, labels, steps=2, guidance=2.5, guidance_interval=(low, high))
    assert calls
    for rows, guidance in calls:
        assert rows == 4
        assert_rounded(guidance, torch.tensor([[2.5, low, high]]).expand(4, 3))


def test_sampling_refuses_a_scale_below_one():
    with pytest.raises(ValueError, match=r"guidance must be at least 1 as an input of the network, got 0\.5"):
        SAMPLERS["any_step"](drawn("mlp", guidance_input=True), torch.randn(4, 2), torch.arange(4), guidance=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_negative_times_are_times_of_their_own(kind):
    """On the paths of its own samples a network is called at ``-t`` (TwinFlow), which its sinusoids tell from ``t``."""
    network, (x, t, _) = drawn(kind), point(kind)
    labels = torch.tensor([0, 1, 2, 3])
    data, fakes = network(x, t, t, labels), network(x, -t, -t, labels)
    assert (fakes - data).abs().flatten(1).amax(1).min() > 1e-3
