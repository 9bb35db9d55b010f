"""Adapters on published networks: names that diffusers knows, recomputed blocks, bases in half precision."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from rcgm.config import ParallelConfig
from rcgm.distributed import parallelize
from rcgm.networks import NETWORKS
from rcgm.roles import base_of, lora_role
from tests.support.roles import disturb, small_role
from tests.support.tiny_networks import FAMILIES


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def point(name: str) -> tuple:
    family = FAMILIES[name]
    t = torch.tensor([0.9, 0.3])
    return torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3)), t, t / 2, family.cond(2)


def gradients_of(role) -> dict[str, torch.Tensor]:
    """By name; nearly all are there: the last block of some families has layers that lead nowhere."""
    gradients = {key: parameter.grad for key, parameter in role.named_parameters() if parameter.grad is not None}
    assert len(gradients) > 0.8 * len(list(role.parameters())) and any(
        gradient.any() for gradient in gradients.values()
    )
    return gradients


@torch.no_grad()
def test_diffusers_loads_the_adapter(name):
    """Under the names that it has here; the embedding of the interval is ours."""
    role = small_role(network=NETWORKS[name](FAMILIES[name].build()), rank=2, alpha=2.0)
    for key, parameter in role.named_parameters():
        if key.startswith("interval_embedder.linear_2"):
            parameter.zero_()
    stock = FAMILIES[name].build()
    adapter = {key: tensor for key, tensor in role.state_dict().items() if not key.startswith("interval_embedder.")}
    assert all(key.startswith("transformer.") for key in adapter)
    stock.load_lora_adapter(adapter, prefix="transformer")
    expected = role(*point(name))
    # frozen parameters as in the role: torch chooses another convolution for trained ones
    got = NETWORKS[name](stock).requires_grad_(False).eval()(*point(name))
    assert not torch.allclose(got, role.without_adapter()(*point(name)), rtol=0.01)
    torch.testing.assert_close(got, expected)


@torch.no_grad()
def test_a_role_begins_as_the_published_network(name):
    network = NETWORKS[name](FAMILIES[name].build()).requires_grad_(False)
    expected = network(*point(name))
    role = lora_role(network, rank=2)
    target = copy.deepcopy(role)
    disturb(role, 1)
    assert not torch.equal(role(*point(name)), expected)
    assert torch.equal(target(*point(name)), expected)
    assert torch.equal(role.without_adapter()(*point(name)), expected)


def test_blocks_are_recomputed_in_the_role_of_their_forward(name):
    gradients = []
    for kind in ("none", "full"):
        student = small_role(network=NETWORKS[name](FAMILIES[name].build()), rank=2)
        parallelize(student, ParallelConfig(activation_checkpointing=kind), None, keep_gathered=True)
        prediction = student(*point(name))
        with torch.no_grad():
            teacher = student.without_adapter()(*point(name))
        (prediction - teacher).square().mean().backward()
        gradients.append(gradients_of(student))
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][key]) for key, gradient in gradients[0].items())


@pytest.mark.parametrize("name", ["sana", "z_image"])
def test_a_change_of_roles_compiles_nothing_after_the_first_step(name):
    """Also where kinds of blocks share their code."""
    torch._dynamo.reset()
    student = small_role(network=NETWORKS[name](FAMILIES[name].build()), rank=2)
    target, teacher = copy.deepcopy(student).requires_grad_(False), student.without_adapter()
    parallelize(student, ParallelConfig(), None, compile="eager", keep_gathered=True)
    counted = []
    with torch._dynamo.config.patch(recompile_limit=64):
        for _ in range(2):
            before = counters["stats"]["unique_graphs"]
            with torch.no_grad():
                between = target(*point(name)) + teacher(*point(name))
            (student(*point(name)) - between).square().mean().backward()
            counted.append(counters["stats"]["unique_graphs"] - before)
    assert counted[0] >= 3 and counted[1] == 0


def test_a_half_precision_base_keeps_its_format(name):
    network = NETWORKS[name](FAMILIES[name].build())
    network.transformer.to(torch.bfloat16)
    role = small_role(network=network, rank=2)
    assert base_of(role).transformer.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in role.parameters()} == {torch.float32}
    output = role(*point(name))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(role).values())
