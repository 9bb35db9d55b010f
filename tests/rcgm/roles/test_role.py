"""Roles: networks that share one frozen base, each with an adapter of its own."""

import copy

import pytest
import torch

pytest.importorskip("peft")

from rcgm.engine.networks import is_frozen
from rcgm.models import DiT
from rcgm.roles import base_of, lora_role
from tests.support.roles import disturb, small_role
from tests.support.small_dit import drawn, inputs

EPS = torch.finfo(torch.float64).eps


@torch.no_grad()
def test_a_role_begins_as_its_network():
    network = drawn().requires_grad_(False)
    expected = network(*inputs())
    role = lora_role(network, rank=2)
    assert torch.equal(role(*inputs()), expected)
    assert torch.equal(role.without_adapter()(*inputs()), expected)
    assert role.num_classes == 5


@torch.no_grad()
def test_an_adapter_adds_a_product_of_two_matrices():
    """Against the network whose weights the products are added to."""
    role = small_role(rank=2, dtype=torch.float64, alpha=3.0)
    merged = drawn(torch.float64)
    tensors = role.state_dict()
    for name in [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]:
        product = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        merged.get_submodule(name).weight += 1.5 * product
    for name, parameter in merged.interval_embedder.named_parameters():
        parameter.copy_(tensors[f"interval_embedder.{name}"])
    expected = merged(*inputs(torch.float64))
    assert not torch.allclose(role.without_adapter()(*inputs(torch.float64)), expected, rtol=0.1)
    # sums of up to 64 products in two orders, through two blocks
    assert (role(*inputs(torch.float64)) - expected).abs().max() < 1e3 * EPS * expected.abs().max()


def test_a_role_owns_what_is_trained_and_nothing_else():
    role = lora_role(drawn(), rank=2)
    names = [name for name, _ in role.named_parameters()]
    assert names == list(role.state_dict())
    layers = [
        f"blocks.{block}.{layer}" for block in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    adapters = [f"{layer}.lora_{matrix}.weight" for layer in layers for matrix in "AB"]
    embedder = [f"interval_embedder.{name}" for name, _ in drawn().interval_embedder.named_parameters()]
    assert sorted(names) == sorted([*adapters, *embedder])
    trained = {id(parameter) for parameter in base_of(role).parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in role.parameters()}
    assert list(role.without_adapter().parameters()) == []


@torch.no_grad()
def test_a_copy_has_values_of_its_own_on_the_same_base():
    role = small_role()
    before = role(*inputs())
    target = copy.deepcopy(role).requires_grad_(False)
    assert base_of(target) is base_of(role)
    assert list(target.state_dict()) == list(role.state_dict())
    assert torch.equal(target(*inputs()), before)
    disturb(role, 2)
    assert not torch.equal(role(*inputs()), before)
    assert torch.equal(target(*inputs()), before)
    assert all(parameter.requires_grad for parameter in role.parameters())
    third = copy.deepcopy(target)
    disturb(third, 3)
    assert torch.equal(target(*inputs()), before)
    assert torch.equal(role.without_adapter()(*inputs()), drawn().requires_grad_(False)(*inputs()))


@torch.no_grad()
def test_a_call_leaves_no_adapter_active():
    role, network = small_role(), drawn().requires_grad_(False)
    role(*inputs())
    assert torch.equal(base_of(role)(*inputs()), network(*inputs()))
    x, t, r, cond = inputs()
    with pytest.raises(ValueError, match="shape"):
        role(x[:, :, 1:], t, r, cond)
    assert torch.equal(base_of(role)(*inputs()), network(*inputs()))


def test_only_the_adapter_gets_gradients():
    role = small_role()
    target = copy.deepcopy(role).requires_grad_(False)
    (role(*inputs()) - target(*inputs()) + 1).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in role.parameters())
    own = {id(parameter) for parameter in role.parameters()}
    assert all(parameter.grad is None for parameter in base_of(role).parameters() if id(parameter) not in own)


def test_a_half_precision_base_has_adapters_in_full_precision():
    role = small_role(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in role.parameters()} == {torch.float32}
    assert base_of(role).blocks[0].attn.qkv.base_layer.weight.dtype == torch.bfloat16
    output = role(*inputs(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in role.parameters()} == {torch.float32}


def test_the_base_stays_in_evaluation_mode():
    role = small_role()
    copy.deepcopy(role).train()
    role.train()
    assert role.training and not base_of(role).training
    assert not any(module.training for module in base_of(role).modules())


def test_a_role_moves_its_base():
    role = small_role()
    twin = copy.deepcopy(role)
    role.to(torch.float64)
    tensors = [*base_of(role).parameters(), *twin.parameters(), *role.parameters()]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}


def test_a_role_without_gradients_does_not_run_in_inference_mode():
    """What the shared base keeps from such a forward would fail in the one that is trained."""
    role = small_role()
    assert is_frozen(drawn().requires_grad_(False))
    assert not is_frozen(copy.deepcopy(role).requires_grad_(False))
    assert not is_frozen(role.without_adapter())


def test_layers_are_chosen_by_the_ends_of_their_names():
    role = lora_role(drawn(), rank=2, targets=["attn.qkv", "x_embedder.proj"])
    layers = {name.partition(".lora_")[0] for name in role.state_dict() if ".lora_" in name}
    assert layers == {"blocks.0.attn.qkv", "blocks.1.attn.qkv", "x_embedder.proj"}


def test_a_network_that_names_no_layers_is_adapted_everywhere():
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.SiLU(), torch.nn.Linear(4, 2))
    role = lora_role(network, rank=1)
    assert {name.partition(".lora_")[0] for name in role.state_dict()} == {"0", "2"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank"),
        ({"rank": 2.0}, TypeError, "rank"),
        ({"alpha": 0.0}, ValueError, "alpha"),
        ({"targets": "attn.qkv"}, TypeError, "targets must be a sequence of names, got 'attn.qkv'"),
        ({"targets": ["to_q"]}, ValueError, "targets must be .* linear layers of DiT, got to_q: there are .*qkv"),
        ({"targets": []}, ValueError, "targets must be names of linear layers of DiT, got none"),
    ],
)
def test_what_cannot_be_adapted_is_refused(arguments, error, message):
    network = drawn()
    with pytest.raises(error, match=message):
        lora_role(network, **arguments)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_defaults_of_our_network_exist_in_every_style():
    for options in ({}, {"feed_forward": "swiglu"}, {"interval_aware": True}):
        role = lora_role(drawn(**options), rank=2)
        layers = {name.partition(".lora_")[0].partition(".")[2] for name in role.state_dict() if ".lora_" in name}
        assert {name.partition(".")[2] for name in layers} >= {"attn.qkv", "attn.proj"}
        assert len({name.partition(".")[2] for name in layers}) == 4
    assert set(DiT.lora_targets) >= {"attn.qkv", "attn.proj"}
