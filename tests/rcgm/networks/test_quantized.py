"""Roles on published networks whose weights are in 8 or 4 bits."""

import copy

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from rcgm.networks import NETWORKS
from rcgm.networks.saving import LORA_FILE, save_adapter, save_published
from rcgm.roles import Role, lora_role
from tests.support.roles import disturb
from tests.support.tiny_networks import FAMILIES

PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


@pytest.fixture(params=PACKAGES)
def kind(request) -> str:
    pytest.importorskip(PACKAGES[request.param])
    return request.param


def quantized_role(folder, name: str, kind: str) -> Role:
    FAMILIES[name].build().save_pretrained(folder)
    torch.manual_seed(0)
    return lora_role(NETWORKS[name].from_pretrained(folder, quantization=kind), rank=2)


def point(name: str) -> tuple:
    family = FAMILIES[name]
    t = torch.tensor([0.9, 0.3])
    return torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3)), t, t / 2, family.cond(2)


@pytest.mark.parametrize("name", ["sana", "sd3", "qwen_image"])
def test_adapters_are_trained_on_a_quantized_network(tmp_path, name, kind):
    """An 8-bit weight is within 1/254 of the largest of its row; a 4-bit one within a sixth of the largest of 64."""
    expected = NETWORKS[name](FAMILIES[name].build()).requires_grad_(False)(*point(name))
    role = quantized_role(tmp_path, name, kind)
    with torch.no_grad():
        got = role(*point(name))
    assert 0 < (got - expected).norm() < {"int8": 0.03, "nf4": 0.4}[kind] * expected.norm()
    assert role.shared.fingerprint() == quantized_role(tmp_path, name, kind).shared.fingerprint()
    disturb(role, 1)
    target = copy.deepcopy(role).requires_grad_(False)
    prediction = role(*point(name))
    # torch may choose other convolutions where there are gradients
    assert (target(*point(name)) - prediction).norm() < 1e-3 * prediction.norm()
    prediction.square().mean().backward()
    gradients = [parameter.grad for parameter in role.parameters() if parameter.grad is not None]
    assert len(gradients) > 0.8 * len(list(role.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients) and any(gradient.any() for gradient in gradients)


def test_adapters_are_exported_alone(tmp_path, kind):
    role = quantized_role(tmp_path / "stock", "sana", kind)
    assert (save_adapter(role, tmp_path / "lora") / LORA_FILE).is_file()
    with pytest.raises(ValueError, match="adapters must be exported alone where their network is quantized"):
        save_published(role, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_inputs_are_not_rounded(tmp_path, kind):
    """A difference over a short distance is that over a long one: rounded inputs would be noise in it."""
    role = quantized_role(tmp_path, "sd3", kind)
    x, t, r, cond = point("sd3")
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))

    def derivative(distance: float) -> torch.Tensor:
        with torch.no_grad():
            return (role(x + distance * direction, t, r, cond) - role(x - distance * direction, t, r, cond)) / distance

    short, long = derivative(0.005), derivative(0.05)
    assert (short - long).norm() < 0.02 * long.norm()


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_no_result_depends_on_the_processor(tmp_path, monkeypatch, training):
    """bitsandbytes packs weights anew on processors with AVX-512 for bfloat16, and computes in that."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    results = []
    for has_it in (False, True):
        monkeypatch.setattr(modules, "has_avx512bf16", lambda has_it=has_it: has_it, raising=False)
        role = quantized_role(tmp_path, "sd3", "nf4").train(training)
        results.append((role(*point("sd3")), role.shared.fingerprint()))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@torch.no_grad()
def test_times_stay_exact(tmp_path):
    pytest.importorskip("bitsandbytes")
    FAMILIES["sana"].build().save_pretrained(tmp_path)
    network = NETWORKS["sana"].from_pretrained(tmp_path, quantization="nf4")
    for place in network._times:
        assert type(place.embedding.layers.first.weight.data) is torch.Tensor
        assert place.embedding.layers.first.weight.dtype == torch.float32
    formats = {parameter.dtype for parameter in network.transformer.transformer_blocks[0].attn1.parameters()}
    assert torch.uint8 in formats
