import re

import pytest
import torch
from safetensors.torch import save_file

from rcgm.models import MLP, DiT
from rcgm.models.published import initialise, read_weights
from rcgm.models.published.layouts import LAYOUTS
from rcgm.transports import TRANSPORTS
from tests.support.published_networks import Published

SIZES = {"side": 8, "patch": 2, "channels": 3, "size": 32, "depth": 2, "heads": 4, "classes": 5}
LIGHTNING = {"norm": "rms_gain", "feed_forward": "swiglu", "positions": "sincos_rope", "time_scale": 1.0}
KINDS = {
    "dit": ({"learn_sigma": True}, {"time_scale": 1000.0}),
    "sit": ({"learn_sigma": True}, {"time_scale": 1.0}),
    "sit without variance": ({}, {"time_scale": 1.0}),
    "lightningdit": ({"lightning": True}, LIGHTNING),
    "lightningdit with qk norm": ({"lightning": True, "qk_norm": True}, {**LIGHTNING, "qk_norm": True}),
}


def ours(**arguments):
    sizes = {"input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 4}
    return DiT(**{**sizes, "num_classes": 5, **arguments})


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.tensor([0.001, 0.25, 0.5, 1.0], dtype=dtype)
    return x, t, torch.tensor([0, 3, 4, 5])


def expected_of(published, layout, x, t, y):
    """By the conventions of the papers: DiT counts steps, SiT walks from noise to data."""
    if layout == "dit":
        return published(x, 1000 * t - 1, y)
    return -published(x, 1 - t, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_computes_what_the_published_network_computes(kind, dtype):
    layout = kind.split()[0]
    of_theirs, of_ours = KINDS[kind]
    published = Published(**SIZES, **of_theirs)
    network = ours(**of_ours)
    initialise(network, published.state_dict(), layout)
    network, published = network.to(dtype), published.to(dtype)
    x, t, y = inputs(dtype)
    expected = expected_of(published, layout, x, t, y)
    got = network(x, t, t * 0.5, y)
    assert expected.std() > 0.1
    # The published sinusoids are float32 in any case; DiT's, of times up to 1000, have lost three digits by then.
    tolerance = 2e-4 if layout == "dit" else 2e-5
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["dit", "sit", "lightningdit"])
def test_the_interval_makes_no_difference_at_first_and_is_learned(kind):
    of_theirs, of_ours = KINDS[kind]
    network = ours(**of_ours, interval_aware=True)
    initialise(network, Published(**SIZES, **of_theirs).state_dict(), kind)
    x, t, y = inputs()
    results = [network(x, t, t * share, y) for share in (0.0, 0.3, 1.0)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    results[0].square().mean().backward()
    assert network.interval_embedder.mlp[2].weight.grad.abs().max() > 0


def test_vp_is_the_limit_of_the_steps_that_dit_counts():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    data = (1 - betas).cumprod(0).sqrt()  # of steps 0 to 999
    transport = TRANSPORTS[LAYOUTS["dit"].transport]()
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(LAYOUTS["dit"].rate * t + LAYOUTS["dit"].offset, torch.arange(1000).double())
    assert (transport.gamma(t) - data).abs().max() < 2e-3
    torch.testing.assert_close(transport.alpha_hat(t), torch.ones_like(t))
    torch.testing.assert_close(transport.gamma_hat(t), torch.zeros_like(t))


def test_images_of_another_size():
    network = ours(time_scale=1.0, input_size=(12, 16))
    initialise(network, Published(**SIZES).state_dict(), "sit")
    assert network(torch.randn(1, 3, 12, 16), torch.ones(1), torch.zeros(1), torch.tensor([0])).std() > 0


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("plain.pt", lambda tensors: tensors),
        ("both.pt", lambda tensors: {"model": _zeros(tensors), "ema": tensors, "opt": {"step": 3}, "args": None}),
        ("wrapped.pt", lambda tensors: {"ema": {f"module._orig_mod.{name}": t for name, t in tensors.items()}}),
        ("lightning.ckpt", lambda tensors: {"state_dict": {f"module.{name}": t for name, t in tensors.items()}}),
        ("nested.pth", lambda tensors: {"ema": {"module": tensors, "decay": 0.9999}}),
        ("plain.safetensors", lambda tensors: tensors),
    ],
)
def test_files(file, wrap, tmp_path):
    tensors = {name: tensor.contiguous() for name, tensor in Published(**SIZES).state_dict().items()}
    (save_file if file.endswith(".safetensors") else torch.save)(wrap(tensors), tmp_path / file)
    read = read_weights(tmp_path / file)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    network, again = ours(time_scale=1.0), ours(time_scale=1.0)
    initialise(network, tmp_path / file, "sit")
    initialise(again, tensors, "sit")
    assert torch.equal(
        network(*inputs()[:2], torch.zeros(4), inputs()[2]), again(*inputs()[:2], torch.zeros(4), inputs()[2])
    )


def test_average_or_student(tmp_path):
    tensors = {"weight": torch.ones(2)}
    torch.save({"model": _zeros(tensors), "ema": tensors}, tmp_path / "both.pt")
    assert read_weights(tmp_path / "both.pt")["weight"].sum() == 2
    assert read_weights(tmp_path / "both.pt", "student")["weight"].sum() == 0


class Anything:
    pass


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        read_weights(tmp_path / "none.pt")
    torch.save({"model": {"weight": torch.ones(1)}, "args": Anything()}, tmp_path / "objects.pt")
    with pytest.raises(
        ValueError, match=r"objects.pt' cannot be read without running code .*safetensors.torch.save_file"
    ):
        read_weights(tmp_path / "objects.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"torn.pt' cannot be read"):
        read_weights(tmp_path / "torn.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"torn.safetensors' cannot be read"):
        read_weights(tmp_path / "torn.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a mapping of names to tensors, got list"):
        read_weights(tmp_path / "list.pt")
    torch.save({"optimizer": {"lr": 0.1}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"holds no tensors under the usual keys .*it holds optimizer"):
        read_weights(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="weights must be ema or student, got 'both'"):
        read_weights(tmp_path / "other.pt", "both")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_scale": 10.0}, "time_scale must be 1.0 for weights of layout 'sit', got 10.0"),
        ({"depth": 3}, "missing: blocks.2."),
        ({"depth": 1}, "left over: blocks.1."),
        ({"num_classes": 7}, "of another shape: y_embedder.embedding_table.weight [6, 32] instead of [8, 32]"),
        ({"feed_forward": "swiglu"}, "missing: blocks.0.mlp.w12.bias"),
        ({"positions": "rope"}, "positions must be sincos or sincos_rope for these weights, got 'rope'"),
    ],
)
def test_weights_that_do_not_fit(arguments, message):
    network = ours(**{"time_scale": 1.0, **arguments})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        initialise(network, Published(**SIZES, learn_sigma=True).state_dict(), "sit")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_other_refusals():
    tensors = Published(**SIZES, lightning=True).state_dict()
    with pytest.raises(ValueError, match="positions must be sincos_rope for these weights, which have rotations"):
        initialise(ours(**{**LIGHTNING, "positions": "sincos"}), tensors, "lightningdit")
    learned = {**Published(**SIZES).state_dict(), "pos_embed": torch.randn(1, 16, 32)}
    with pytest.raises(ValueError, match="pos_embed of these weights must be DiT's fixed positions"):
        initialise(ours(time_scale=1.0), learned, "sit")
    with pytest.raises(ValueError, match="layout must be one of dit, sit, lightningdit, got 'uvit'"):
        initialise(ours(), tensors, "uvit")
    with pytest.raises(TypeError, match="network must be a DiT, got MLP"):
        initialise(MLP(dim=2), tensors, "sit")


def _zeros(tensors):
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
