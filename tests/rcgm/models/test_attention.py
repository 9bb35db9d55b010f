import re

import pytest
import torch

from rcgm.models.attention import SelfAttention


def attention_by_definition(module, x):
    """One head after the other, with the softmax written out."""
    width = x.shape[2]
    q, k, v = (x @ module.qkv.weight.T + module.qkv.bias).split(width, dim=2)
    size = width // module.num_heads
    heads = []
    for start in range(0, width, size):
        q_head, k_head, v_head = (part[:, :, start : start + size] for part in (q, k, v))
        if isinstance(module.q_norm, torch.nn.RMSNorm):
            q_head = q_head / (q_head.square().mean(2, keepdim=True) + 1e-6).sqrt() * module.q_norm.weight
            k_head = k_head / (k_head.square().mean(2, keepdim=True) + 1e-6).sqrt() * module.k_norm.weight
        logits = torch.exp(q_head @ k_head.transpose(1, 2) / size**0.5)
        heads.append(logits / logits.sum(2, keepdim=True) @ v_head)
    return torch.cat(heads, 2) @ module.proj.weight.T + module.proj.bias


def drawn(dtype=torch.float64, **arguments):
    module = SelfAttention(**arguments).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("num_heads", [1, 3, 6])
def test_against_the_definition(num_heads, qk_norm):
    module = drawn(hidden_size=12, num_heads=num_heads, qk_norm=qk_norm)
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x), attention_by_definition(module, x))


def test_qk_norm_forgets_the_scale_of_queries_and_keys():
    module = drawn(hidden_size=12, num_heads=3, qk_norm=True)
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = module(x)
    with torch.no_grad():
        module.qkv.weight[:24] *= 100
        module.qkv.bias[:24] *= 100
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(qk_norm, weights, autocast):
    module = drawn(weights, hidden_size=12, num_heads=3, qk_norm=qk_norm)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = module(x)
    assert got.dtype == (torch.bfloat16 if autocast else weights)
    torch.testing.assert_close(got.double(), attention_by_definition(module.double(), x.double()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_heads": 5}, ValueError, "hidden_size must be a multiple of num_heads, got 12 and 5"),
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ({"hidden_size": 12.0}, TypeError, "hidden_size must be an int, got 12.0 of type float"),
        ({"qk_norm": 1}, TypeError, "qk_norm must be True or False, got 1 of type int"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SelfAttention(**{"hidden_size": 12, "num_heads": 3, **arguments})
