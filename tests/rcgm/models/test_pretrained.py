import json

import pytest
import torch
from torch import nn

from rcgm.models import MLP, DiT, load_pretrained, save_pretrained

SIZES = {
    "input_size": (4, 6),
    "in_channels": 3,
    "patch_size": 2,
    "hidden_size": 16,
    "depth": 1,
    "num_heads": 4,
    "num_classes": 5,
    "frequency_size": 16,
}
STYLE = {"norm": "rms_gain", "feed_forward": "swiglu", "positions": "sincos_rope", "qk_norm": True, "time_scale": 1.0}


def drawn(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def outputs(network):
    generator = torch.Generator().manual_seed(1)
    shape = (3, 4, 6) if isinstance(network, DiT) else (2,)
    x, t = torch.randn(2, *shape, generator=generator), torch.rand(2, generator=generator)
    return network(x, t, t / 2, torch.tensor([1, 5]))


@pytest.mark.parametrize(
    "make", [lambda: DiT(**SIZES, **STYLE), lambda: DiT(**SIZES), lambda: MLP(dim=2, num_classes=5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(make, dtype, tmp_path):
    network = drawn(make()).to(dtype)
    assert save_pretrained(network, tmp_path / "hub" / "net", training={"step": 3}) == tmp_path / "hub" / "net"
    assert sorted(path.name for path in (tmp_path / "hub").rglob("*")) == ["config.json", "model.safetensors", "net"]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    again = load_pretrained(tmp_path / "hub" / "net")
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training and again.arguments == network.arguments
    assert torch.equal(outputs(again), outputs(network))
    assert next(again.parameters()).dtype == dtype


def test_config_is_plain(tmp_path):
    save_pretrained(DiT(**SIZES), tmp_path / "net", training={"step": 3, "objective": {"name": "rcgm"}})
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["model_type"] == "dit" and config["library_name"] == "rcgm"
    assert config["hidden_size"] == 16 and config["input_size"] == [4, 6]
    assert config["training"] == {"step": 3, "objective": {"name": "rcgm"}}


def test_changes_that_touch_no_tensor(tmp_path):
    network = drawn(DiT(**SIZES, **STYLE))
    save_pretrained(network, tmp_path / "net")
    again = load_pretrained(tmp_path / "net", attention="sdpa_math", input_size=8)
    assert again(torch.randn(1, 3, 8, 8), torch.ones(1), torch.zeros(1), torch.tensor([0])).shape == (1, 3, 8, 8)
    assert torch.equal(again.pos_embed, DiT(**{**SIZES, "input_size": 8}, **STYLE).pos_embed)
    with pytest.raises(ValueError, match=r"model.safetensors' does not fit its config.json: .*blocks.1"):
        load_pretrained(tmp_path / "net", depth=2)
    with pytest.raises(TypeError, match="dept"):
        load_pretrained(tmp_path / "net", dept=2)


def test_nothing_is_written_over_or_left_behind(tmp_path, monkeypatch):
    save_pretrained(MLP(dim=2, width=4), tmp_path / "net")
    with pytest.raises(FileExistsError, match="is there already"):
        save_pretrained(MLP(dim=2, width=4), tmp_path / "net")

    def fails(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("rcgm.files.sync_to_disk", fails)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(MLP(dim=2, width=4), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_refuses(tmp_path):
    with pytest.raises(TypeError, match="network must be one of DiT, MLP, TextDiT, and whole, got Linear"):
        save_pretrained(nn.Linear(1, 1), tmp_path / "net")
    with pytest.raises(FileNotFoundError, match=r"no file '.*config.json'"):
        load_pretrained(tmp_path / "none")
    save_pretrained(MLP(dim=2, width=4), tmp_path / "net")
    config = tmp_path / "net" / "config.json"
    content = config.read_text()
    config.write_text(content.replace('"mlp"', '"unet"'))
    message = r"model_type in '.*config.json' must be one of dit, mlp, text_dit, got 'unet'"
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "net")
    config.write_text("{")
    with pytest.raises(ValueError, match=r"net' cannot be read"):
        load_pretrained(tmp_path / "net")
    config.write_text(content)
    weights = tmp_path / "net" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"net' cannot be read"):
        load_pretrained(tmp_path / "net")
