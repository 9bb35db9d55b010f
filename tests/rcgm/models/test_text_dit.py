"""The diffusion transformer on text."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.config import ParallelConfig
from rcgm.distributed import blocks_of, parallelize
from rcgm.models import TextDiT, load_pretrained, save_pretrained
from rcgm.models.cross_attention import CrossAttention
from rcgm.objectives import RCGM, MeanFlow

WIDTH = 6


def build(**options) -> TextDiT:
    """All weights drawn, those that start at 0 too."""
    network = TextDiT.from_preset("micro/2", in_channels=3, text_dim=WIDTH, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return network


def point(sides: tuple[int, int] = (4, 8), dtype: torch.dtype = torch.float32) -> tuple:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *sides, generator=generator, dtype=dtype)
    text = torch.randn(2, 5, WIDTH, generator=generator, dtype=dtype)
    t = torch.tensor([0.9, 0.4])
    return x, t, t / 2, {"text": text, "mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}


def test_it_starts_as_the_function_0_and_blocks_as_identities():
    network = TextDiT.from_preset("micro/2", in_channels=3, text_dim=WIDTH)
    assert not network(*point()).any()
    tokens = torch.randn(2, 8, 64)
    rotation, text = network._rotation((2, 4), tokens), torch.randn(2, 5, 64)
    times = torch.randn(2, 64)
    assert torch.equal(network.blocks[0](tokens, times, rotation, times, text, None), tokens)


def test_the_output_depends_on_all_that_it_is_given():
    network = build()
    x, t, r, cond = point()
    expected = network(x, t, r, cond)
    assert expected.shape == x.shape
    others = [(x.flip(3), t, r, cond), (x, t + 0.05, r, cond), (x, t, r / 2, cond), (x, t, r, {"text": cond["text"]})]
    for other in (*others, (x, t, r, {**cond, "text": cond["text"].flip(1)})):
        assert not torch.allclose(network(*other)[0], expected[0])


def test_padding_of_the_text_changes_nothing():
    network = build().double()
    x, t, r, cond = point(dtype=torch.float64)
    expected = network(x, t, r, cond)
    other = {"text": cond["text"].clone(), "mask": cond["mask"].bool()}
    other["text"][0, 3:] = 100.0
    assert torch.equal(network(x, t, r, other), expected)
    short = {"text": cond["text"][:1, :3]}
    # fewer numbers in each sum of the softmax, and no others
    torch.testing.assert_close(network(x[:1], t[:1], r[:1], short), expected[:1], rtol=1e-12, atol=1e-12)


def test_one_network_takes_every_shape():
    network = build()
    for sides in ((4, 8), (8, 4), (2, 2), (12, 10)):
        assert network(*point(sides)).shape == (2, 3, *sides)
    assert len(network._rotations) == 4


def test_cross_attention_is_what_its_formula_says():
    attention = CrossAttention(8, 2, qk_norm=True).double()
    x, text = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
    q = attention.q(x).view(2, 3, 2, 4)
    k, v = attention.kv(text).view(2, 5, 2, 2, 4).unbind(2)
    q, k = attention.q_norm(q), attention.k_norm(k)
    weights = torch.einsum("bthd,blhd->bhtl", q, k) / 4**0.5
    weights = weights.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    expected = attention.proj(torch.einsum("bhtl,blhd->bthd", weights, v).flatten(2))
    torch.testing.assert_close(attention(x, text, mask), expected)


@pytest.mark.parametrize("objective", [RCGM(order=2), MeanFlow()])
def test_objectives_train_it(objective):
    network = build(interval_aware=True, qk_norm=True, norm="rms_gain", feed_forward="swiglu")
    x, _, _, cond = point()
    with sdpa_kernel(SDPBackend.MATH):
        objective(network, x, cond).loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.text_embedder.fc1.weight.grad.any()


def test_half_precision_keeps_the_times():
    network = build()
    x, t, r, cond = point()
    half = copy.deepcopy(network).bfloat16()
    change = [model(x, t + 0.001, r, cond).float() - model(x, t, r, cond).float() for model in (network, half)]
    moved = network.t_embedder(t + 0.001) - network.t_embedder(t)
    halved = half.t_embedder(t + 0.001) - half.t_embedder(t)
    assert half(x, t, r, cond).dtype == torch.bfloat16
    assert halved.dtype == torch.float32 and change[0].any()
    # the weights alone are rounded
    assert (halved - moved).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * moved.abs().max()


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_blocks_are_recomputed_and_compiled(kind):
    def gradients(**options) -> list[torch.Tensor]:
        network = build()
        parallelize(network, ParallelConfig(**options), None, compile="aot_eager", keep_gathered=False)
        network(*point()).square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    assert len(blocks_of(build())) == build().arguments["depth"]
    for got, expected in zip(gradients(activation_checkpointing=kind), gradients(), strict=True):
        torch.testing.assert_close(got, expected)


def test_it_is_saved_and_loaded(tmp_path):
    network = build(interval_aware=True)
    loaded = load_pretrained(save_pretrained(network, tmp_path / "model"))
    assert type(loaded) is TextDiT and loaded.arguments == network.arguments
    assert torch.equal(loaded(*point()), network(*point()))


def test_positions_made_without_autograd_serve_a_backward():
    network = build()
    with torch.inference_mode():
        network(*point())
    network(*point()).sum().backward()
    assert network.blocks[0].attn.qkv.weight.grad.any()


def test_what_does_not_fit_is_refused():
    network = build()
    x, t, r, cond = point()
    with pytest.raises(
        ValueError, match=r"x must have shape \[B, 3, H, W\], H and W multiples of 2, got \[2, 3, 3, 8\]"
    ):
        network(x[:, :, :3], t, r, cond)
    with pytest.raises(TypeError, match="cond must be a mapping with text and, if need be, mask, got Tensor"):
        network(x, t, r, cond["text"])
    with pytest.raises(ValueError, match=r"cond must have a text of shape \[2, L, 6\], got NoneType"):
        network(x, t, r, {"mask": cond["mask"]})
    with pytest.raises(ValueError, match=r"cond must have a text of shape \[2, L, 6\], got \[2, 5, 5\]"):
        network(x, t, r, {"text": cond["text"][..., :5]})
    with pytest.raises(ValueError, match=r"cond must have a mask of shape \[2, 5\], got \[2, 4\]"):
        network(x, t, r, {**cond, "mask": cond["mask"][:, :4]})
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of 4 num_heads \(positions\), got 12 and 2"):
        TextDiT(in_channels=3, text_dim=6, patch_size=2, hidden_size=12, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="text_dim must be at least 1, got 0"):
        TextDiT.from_preset("nano/2", in_channels=3, text_dim=0)
