"""Published networks by their name in a configuration, and what is said where that cannot be."""

import json
import math
import subprocess
import sys

import pytest
import torch

from rcgm.config import ConfigError, build_model_from, config_to_yaml, parse_config
from rcgm.config.yaml_text import parse_yaml
from rcgm.data import DataInfo
from rcgm.data.info import TextInfo
from rcgm.distributed import blocks_of
from rcgm.distributed.shares import Processes
from rcgm.networks import NETWORKS
from rcgm.training.setup import parallelize_networks
from rcgm.training.utilisation import forward_flops
from tests.support.tiny_networks import FAMILIES

IMAGES = [name for name, family in FAMILIES.items() if len(family.latents) == 3]
"""Families of what ``DataInfo`` describes; videos are for loops of one's own."""


@pytest.fixture(scope="module", params=FAMILIES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    path = tmp_path_factory.mktemp(name)
    FAMILIES[name].build().save_pretrained(path / "transformer")
    return path


def values(model: dict) -> dict:
    return {"steps": 1, "batch_size": 2, "data": {"name": "digits"}, "model": model, "objective": {"name": "rcgm"}}


def build(**model):
    return build_model_from(parse_config(values(model)))


def test_a_configuration_names_a_network(name, folder):
    interval = "embedding" if FAMILIES[name].own_interval else "none"
    config = parse_config(values({"name": name, "path": str(folder), "interval": interval, "dtype": "bfloat16"}))
    assert parse_config(parse_yaml(config_to_yaml(config))) == config
    network = build_model_from(config)
    assert type(network) is NETWORKS[name]
    assert network.interval_embedder is None and network.transformer.dtype == torch.bfloat16
    defaults = parse_config(values({"name": name, "path": str(folder)})).model.arguments
    assert (defaults["interval"], defaults["dtype"]) == ("embedding", "float32")


def test_blocks_are_those_that_the_family_names(name, folder):
    network = build(name=name, path=str(folder))
    expected = [block for names in network.block_names for block in getattr(network.transformer, names)]
    assert blocks_of(network) == expected != []
    assert blocks_of(torch.nn.Sequential(network)) == expected


def test_no_weights_are_read_on_the_meta_device(name, folder):
    with torch.device("meta"):
        network = NETWORKS[name].from_pretrained(folder, dtype="bfloat16")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    read = NETWORKS[name].from_pretrained(folder, dtype="bfloat16")
    expected = {key: tensor.dtype for key, tensor in read.state_dict().items()}
    assert {key: tensor.dtype for key, tensor in network.state_dict().items()} == expected
    assert torch.bfloat16 in expected.values()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", IMAGES, indirect=True, scope="module")
def test_operations_of_a_forward_are_counted(name, folder, dtype):
    family = FAMILIES[name]
    tensors = {key: tuple(value.shape[1:]) for key, value in family.cond(1).items()}
    info = DataInfo(family.latents, None, "images", text=TextInfo(name, "", tensors))
    counted = forward_flops(lambda: NETWORKS[name].from_pretrained(folder, dtype=dtype), info)
    assert counted > 2 * math.prod(family.latents)


def test_flux_is_told_the_guidance_of_the_configuration(tmp_path):
    FAMILIES["flux"].build().save_pretrained(tmp_path)
    assert build(name="flux", path=str(tmp_path), guidance=2.0).guidance == 2.0
    with pytest.raises(ConfigError, match=r"unknown key 'model\.guidance'"):
        build(name="sana", path=str(tmp_path), guidance=2.0)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(
        ConfigError, match=r"path must be a folder of diffusers or a name on the hub, owner/name, got '.*x'"
    ):
        build(name="sana", path=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match=r"path must hold transformer/config\.json \(a pipeline\) or config\.json"):
        build(name="sana", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.path: missing"):
        build(name="sana")
    with pytest.raises(ConfigError, match="dtype must be one of float32, bfloat16, got 'half'"):
        build(name="sana", path=str(tmp_path), dtype="half")


def test_a_model_of_another_class_is_named(tmp_path):
    FAMILIES["flux"].build().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"path must hold a SanaTransformer2DModel, got .* a FluxTransformer2DModel"):
        build(name="sana", path=str(tmp_path))


def test_a_folder_that_is_missing_may_be_a_name_on_the_hub(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pytest.importorskip("diffusers").SanaTransformer2DModel, "load_config", unreachable)
    with pytest.raises(ConfigError, match=r"in 'models/sana', which is no folder here .* on the hub: no network"):
        build(name="sana", path="models/sana")


def test_damaged_files_are_named(tmp_path):
    FAMILIES["sana"].build().save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="path: cannot load the SanaTransformer2DModel in"):
        build(name="sana", path=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="path: cannot load"):
        build(name="sana", path=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="with no class of diffusers"):
        build(name="sana", path=str(tmp_path))


def test_only_a_network_that_is_made_needs_diffusers(tmp_path):
    program = (
        "import sys\nsys.modules['diffusers'] = None\n"
        "import rcgm.training, rcgm.cli\nfrom rcgm.networks import NETWORKS\n"
        "try:\n    NETWORKS['sana'].from_pretrained('x')\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert found.stdout == "SanaTransformer2DModel needs the package diffusers: pip install 'rcgm[text]'\n"


def test_quantization_is_refused_where_it_cannot_work(tmp_path, monkeypatch):
    FAMILIES["sana"].build().save_pretrained(tmp_path)
    model = {"name": "sana", "path": str(tmp_path), "quantization": "int8"}
    with pytest.raises(
        ConfigError, match=r"model\.quantization must be none with tune full, got int8: set tune to lora"
    ):
        parse_config(values(model))
    config = parse_config({**values(model), "tune": "lora"})
    with pytest.raises(ValueError, match=r"model\.quantization must be none where several processes train, got int8"):
        parallelize_networks(config, None, None, None, Processes(world_size=2))
    with pytest.raises(ConfigError, match="quantization must be one of none, int8, nf4, got 'int3'"):
        build_model_from(parse_config({**values({**model, "quantization": "int3"}), "tune": "lora"}))
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModuleNotFoundError, match="quantization int8 needs the package torchao: pip install torchao"):
        build_model_from(config)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModuleNotFoundError, match="quantization nf4 needs the package bitsandbytes: pip install bits"):
        NETWORKS["sana"].from_pretrained(tmp_path, quantization="nf4")


@torch.no_grad()
def test_quantized_weights_are_close_and_times_exact(name, folder):
    pytest.importorskip("torchao")
    family = FAMILIES[name]
    plain = NETWORKS[name].from_pretrained(folder, dtype="bfloat16").eval()
    network = NETWORKS[name].from_pretrained(folder, dtype="bfloat16", quantization="int8").eval()
    x = torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.9, 0.3])
    expected, found = (item(x, t, t / 2, family.cond(2)).float() for item in (plain, network))
    # each weight is rounded to 1/127 of the largest of its row: half of that at most, a third of it on average
    assert (found - expected).norm() < expected.norm() * 3 / 127
    assert not torch.equal(found, expected)
    for place in network._times:
        assert type(place.embedding.layers.first.weight.data) is torch.Tensor
