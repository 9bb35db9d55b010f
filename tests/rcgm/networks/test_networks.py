"""Published networks behind our signature: what every family has to do."""

import copy
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from rcgm.networks import NETWORKS
from rcgm.networks.base import PublishedNetwork
from rcgm.networks.saving import save_adapter
from tests.support.tiny_networks import FAMILIES, Family, hunyuan_image
from tests.support.tiny_pipelines import tiny_pipeline

MEANFLOW = hunyuan_image(use_meanflow=True)


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


@pytest.fixture(params=[name for name, family in FAMILIES.items() if not family.own_interval])
def with_interval(request) -> str:
    """Families whose networks know nothing of r."""
    return request.param


def test_every_family_is_tested():
    assert set(FAMILIES) == set(NETWORKS)


@torch.no_grad()
def test_the_interval_is_inert_at_first(with_interval):
    x, t, r, cond = point(FAMILIES[with_interval])
    network, plain = wrapped(with_interval), wrapped(with_interval, interval="none")
    expected = network(x, t, t, cond)
    assert expected.shape == x.shape
    assert torch.equal(network(x, t, r, cond), expected)
    assert torch.equal(plain(x, t, r, cond), expected)


def test_the_interval_is_learnt(with_interval):
    x, t, r, cond = point(FAMILIES[with_interval])
    network = wrapped(with_interval)
    (network(x, t, r, cond) - x).square().mean().backward()
    embedder = network.interval_embedder
    assert embedder.linear_2.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter -= 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(network(x, t, r, cond), network(x, t, t, cond))
        assert torch.equal(network(x, t, r, cond)[2], network(x, t, t, cond)[2])  # r = t there


def test_negative_times_are_times_of_their_own(name):
    """On the paths of its own samples a network is called at ``-t`` (TwinFlow), which its sinusoids tell from ``t``."""
    x, t, _, cond = point(FAMILIES[name])
    network = wrapped(name)
    data, fakes = network(x, t, t, cond), network(x, -t, -t, cond)
    assert fakes.isfinite().all()
    assert (fakes - data).abs().amax((1, 2, 3)).min() > 1e-4
    fakes.square().mean().backward()
    layers = network._times[0].embedding.layers
    assert layers.first.weight.grad.abs().max() > 0


def embeddings(network: PublishedNetwork, x: torch.Tensor, cond: dict) -> list[list[torch.Tensor]]:
    """What each time embedding gives in a forward at each of two times."""
    places = [*network._times, *([] if network._own_interval is None else [network._own_interval])]
    found = [[] for _ in places]
    hooks = [
        place.embedding.register_forward_hook(lambda *call, rows=rows: rows.append(call[2].float()))
        for place, rows in zip(places, found, strict=True)
    ]
    t = torch.tensor([0.7] * len(x))
    for time in (t, t + 0.001):
        network(x, time, time, cond)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES.values(), MEANFLOW], ids=[*FAMILIES, "meanflow"])
def test_half_precision_keeps_the_times(family):
    """The change over 0.001 in bfloat16, where times and sinusoids that pass through the network would be rounded."""
    name = next((name for name, item in FAMILIES.items() if item is family), "hunyuan_image")
    x, _, _, cond = point(family)
    network = NETWORKS[name](family.build()).eval()
    half = copy.deepcopy(network)
    half.transformer.to(torch.bfloat16)
    places = zip(embeddings(network, x, cond), embeddings(half, x, cond), strict=True)
    for (before, after), (half_before, half_after) in places:
        full, rounded = after - before, half_after - half_before
        # each of the two embeddings is rounded once to bfloat16, and the weights were before
        bound = 4 * torch.finfo(torch.bfloat16).eps * before.abs().max()
        assert full.abs().max() > 0
        assert (rounded - full).abs().max() <= bound


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "family"), [("flux", FAMILIES["flux"]), ("hunyuan_image", hunyuan_image(guidance_embeds=True))]
)
def test_half_precision_keeps_the_guidance(name, family):
    """1000 * 3.5 is 3504 in bfloat16, by which the fastest sinusoid turns 4 radians further."""
    x, t, r, cond = point(family)
    network = NETWORKS[name](family.build(), guidance=3.5).eval()
    half = copy.deepcopy(network)
    half.transformer.to(torch.bfloat16)
    found = []
    for item in (network, half):
        hook = item._guidance_input.embedding.register_forward_hook(lambda *call: found.append(call[2].float()))
        item(x, t, r, cond)
        hook.remove()
    # the embedding is rounded, and the weights of two layers were before
    assert (found[1] - found[0]).abs().max() <= 4 * torch.finfo(torch.bfloat16).eps * found[0].abs().max()
    assert not torch.equal(network(x, t, r, cond), NETWORKS[name](family.build(), guidance=1.0)(x, t, r, cond))


@torch.no_grad()
@pytest.mark.parametrize(("name", "family"), [("anyflow", FAMILIES["anyflow"]), ("hunyuan_image", MEANFLOW)])
def test_an_interval_of_the_networks_own_is_used(name, family):
    x, t, r, cond = point(family)
    network = NETWORKS[name](family.build()).eval()
    assert network.interval_embedder is None
    assert list(network.transformer.state_dict()) == list(family.build().state_dict())
    twin = copy.deepcopy(network)
    at_r, at_t = network(x, t, r, cond), network(x, t, t, cond)
    assert not torch.equal(at_r[:2], at_t[:2]) and torch.equal(at_r[2], at_t[2])  # r = t in the last
    assert torch.equal(twin(x, t, r, cond), at_r)
    with pytest.raises(ValueError, match="interval must be embedding, got 'none': this network has an embedding of r"):
        NETWORKS[name](family.build(), interval="none")


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
    added = {} if network.interval_embedder is None else network.interval_embedder.state_dict()
    interval = [f"interval_embedder.{key}" for key in added]
    assert list(network.state_dict()) == [*(f"transformer.{key}" for key in stock), *interval]  # each once


def test_the_interval_lies_on_the_device_of_the_network(with_interval):
    network = NETWORKS[with_interval](FAMILIES[with_interval].build().to("meta"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@torch.no_grad()
def test_the_stock_network_still_runs_by_itself(with_interval):
    family = FAMILIES[with_interval]
    x, t, r, cond = point(family)
    network = wrapped(with_interval)
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


def test_the_page_works(tmp_path, monkeypatch):
    """The code of docs/text_to_image.md that needs no run."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "models" / "Sana_600M"
    tiny_pipeline("sana").save_pretrained(path)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = {"path": path, "images": images, "prompts": ["a fox", "a bear"]}
    page = (Path(__file__).parents[3] / "docs" / "text_to_image.md").read_text(encoding="utf-8")
    code, adapters, _, elsewhere = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, given)
    given["loss"].backward()
    assert given["network"].interval_embedder.linear_2.weight.grad.abs().max() > 0
    families = page.partition("```python")[0]
    assert set(re.findall(r"^\| `(\w+)`", families, re.MULTILINE)) == set(NETWORKS)
    exec(adapters, given)
    given["loss"].backward()
    assert all(parameter.grad is not None for parameter in given["student"].parameters())
    save_adapter(given["student"], "few_step")
    size = "num_inference_steps=2, height=32, width=32, use_resolution_binning=False"
    exec(elsewhere.replace("num_inference_steps=2", size), given)
    assert given["image"].size == (32, 32)


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
    if half.interval_embedder is not None:
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
