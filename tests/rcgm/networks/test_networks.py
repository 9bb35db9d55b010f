"""Published networks behind our signature: what every family has to do."""

import copy
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from rcgm.networks import NETWORKS
from rcgm.networks.base import PublishedNetwork
from tests.support.tiny_networks import FAMILIES, Family
from tests.support.tiny_pipelines import tiny_pipeline

EPS = torch.finfo(torch.float32).eps


def wrapped(name: str, **options) -> PublishedNetwork:
    return NETWORKS[name](FAMILIES[name].build(), **options).eval()


def point(family: Family, batch: int = 3) -> tuple:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, *family.latents, generator=generator)
    t = torch.tensor([0.9, 0.5, 0.013][:batch])
    return x, t, t * torch.tensor([0.1, 0.7, 1.0][:batch]), family.cond(batch)


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def test_every_family_is_tested():
    assert set(FAMILIES) == set(NETWORKS)


@torch.no_grad()
def test_the_interval_is_inert_at_first(name):
    x, t, r, cond = point(FAMILIES[name])
    network, plain = wrapped(name), wrapped(name, interval="none")
    expected = network(x, t, t, cond)
    assert expected.shape == x.shape
    assert torch.equal(network(x, t, r, cond), expected)
    assert torch.equal(plain(x, t, r, cond), expected)


def test_the_interval_is_learnt(name):
    x, t, r, cond = point(FAMILIES[name])
    network = wrapped(name)
    (network(x, t, r, cond) - x).square().mean().backward()
    embedder = network.interval_embedder
    assert embedder.linear_2.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter -= 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(network(x, t, r, cond), network(x, t, t, cond))
        assert torch.equal(network(x, t, r, cond)[2], network(x, t, t, cond)[2])  # r = t there


@torch.no_grad()
def test_half_precision_keeps_the_times(name):
    """The change over 0.001 in bfloat16, where times and sinusoids that pass through the network would be rounded."""
    family = FAMILIES[name]
    x, _, _, cond = point(family)
    network = wrapped(name)
    half = copy.deepcopy(network)
    half.transformer.to(torch.bfloat16)
    embedding = {}
    for key, module in (("full", network), ("half", half)):
        module._time_inputs[1].register_forward_hook(
            lambda *call, key=key: embedding.setdefault(key, []).append(call[2])
        )
    t = torch.tensor([0.7] * 3)
    for time in (t, t + 0.001):
        network(x, time, time, cond)
        half(x, time, time, cond)
    full = embedding["full"][1] - embedding["full"][0]
    rounded = embedding["half"][1].float() - embedding["half"][0].float()
    # each of the two embeddings is rounded once to bfloat16, and the weights were before
    bound = 4 * torch.finfo(torch.bfloat16).eps * embedding["full"][0].abs().max()
    assert full.abs().max() > 0
    assert (rounded - full).abs().max() <= bound


@torch.no_grad()
def test_a_copy_is_independent(name):
    x, t, r, cond = point(FAMILIES[name])
    network = wrapped(name)
    twin = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.add_(1.0)
    assert not torch.equal(network(x, t, r, cond), twin(x, t, r, cond))
    assert torch.equal(twin(x, t, r, cond), wrapped(name)(x, t, r, cond))


def test_the_stock_network_keeps_its_names(name):
    stock = FAMILIES[name].build().state_dict()
    network = wrapped(name)
    found = network.transformer.state_dict()
    assert list(found) == list(stock)
    assert all(torch.equal(found[key], stock[key]) for key in stock)
    interval = [f"interval_embedder.{key}" for key in network.interval_embedder.state_dict()]
    assert list(network.state_dict()) == [*(f"transformer.{key}" for key in stock), *interval]  # each once


def test_the_interval_lies_on_the_device_of_the_network(name):
    network = NETWORKS[name](FAMILIES[name].build().to("meta"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@torch.no_grad()
def test_the_stock_network_still_runs_by_itself(name):
    family = FAMILIES[name]
    x, t, r, cond = point(family)
    network = wrapped(name)
    before = network(x, t, r, cond)
    network.interval_embedder = None
    assert torch.equal(network(x, t, r, cond), before)


def test_blocks_and_layers_for_lora_are_there(name):
    network = wrapped(name)
    for blocks in network.block_names:
        assert len(getattr(network.transformer, blocks)) > 0
    names = [key for key, _ in network.transformer.named_modules()]
    for target in network.lora_targets:
        assert any(key.endswith(f".{target}") for key in names), target


def test_the_page_works(tmp_path):
    """The code of docs/text_to_image.md."""
    tiny_pipeline("sana").save_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = {"path": tmp_path, "images": images, "prompts": ["a fox", "a bear"]}
    page = (Path(__file__).parents[3] / "docs" / "text_to_image.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, given)
    given["loss"].backward()
    assert given["network"].interval_embedder.linear_2.weight.grad.abs().max() > 0
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == set(NETWORKS)


@torch.no_grad()
def test_loaded_from_a_folder(name, tmp_path):
    family = FAMILIES[name]
    family.build().save_pretrained(tmp_path / "model" / "transformer")
    x, t, r, cond = point(family)
    expected = wrapped(name)(x, t, r, cond)
    for path in (tmp_path / "model", tmp_path / "model" / "transformer"):
        assert torch.equal(NETWORKS[name].from_pretrained(path).eval()(x, t, r, cond), expected)
    half = NETWORKS[name].from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert half.transformer.dtype == torch.bfloat16
    assert half.interval_embedder.linear_1.weight.dtype == torch.float32


def test_what_does_not_fit_is_refused(name):
    family = FAMILIES[name]
    x, t, r, cond = point(family)
    network = wrapped(name)
    with pytest.raises(TypeError, match="transformer must be a"):
        NETWORKS[name](torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="interval must be one of embedding, none, got 'some'"):
        NETWORKS[name](family.build(), interval="some")
    with pytest.raises(TypeError, match=r"t must be float32 or float64, got torch\.bfloat16"):
        network(x, t.bfloat16(), r, cond)
    with pytest.raises(TypeError, match="cond must be a mapping with text"):
        network(x, t, r, cond["text"])
    with pytest.raises(ValueError, match="cond must have text"):
        network(x, t, r, {"mask": t})
