import inspect
import sys
import types

import pytest
import torch
from torch.autograd import forward_ad

from rcgm.models import DiT, attention_backends
from rcgm.models.attention import SelfAttention
from rcgm.models.attention_backends import BACKENDS, AttentionBackend, attention_kernel

SHAPE = (2, 5, 3, 8)  # batch, tokens, heads, features: all different, so that no layout passes for another


def drawn(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]


def by_definition(q, k, v):
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / SHAPE[3] ** 0.5
    return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(3), v)


# The documented signatures, all of [batch, tokens, heads, features].
def flash_attn_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                 alibi_slopes=None, deterministic=False, return_attn_probs=False):  # fmt: skip
    assert dropout_p == 0 and softmax_scale is None and not causal and window_size == (-1, -1)
    return by_definition(q, k, v)


def flash_attn_3(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
                 window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
                 deterministic=False, sm_margin=0, return_attn_probs=False):  # fmt: skip
    assert softmax_scale is None and not causal and qv is None
    return by_definition(q, k, v)


def flash_attn_4(q, k, v, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0,
                 num_splits=1, pack_gqa=None):  # fmt: skip
    assert softmax_scale is None and not causal
    return by_definition(q, k, v), torch.zeros(q.shape[0], q.shape[2], q.shape[1])


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None, output_dtype=None):
    assert attn_bias is None and p == 0 and scale is None
    return by_definition(query, key, value)


STAND_INS = {
    "flash2": ("flash_attn", "flash_attn_func", flash_attn_2),
    "flash3": ("flash_attn_interface", "flash_attn_func", flash_attn_3),
    "flash4": ("flash_attn.cute", "flash_attn_func", flash_attn_4),
    "xformers": ("xformers.ops", "memory_efficient_attention", memory_efficient_attention),
}


def install(monkeypatch, module, **content):
    """A module that is imported like an installed one; packages above it hold nothing."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
    vars(sys.modules[module]).update(content)


def test_every_package_has_a_stand_in():
    assert set(STAND_INS) | {name for name in BACKENDS if name.startswith("sdpa")} == set(BACKENDS)


@pytest.mark.parametrize("name", STAND_INS)
def test_packages_are_called_by_their_signature(name, monkeypatch):
    module, function, stand_in = STAND_INS[name]
    seen = []

    def recorded(*positional, **keywords):
        seen.append(inspect.signature(stand_in).bind(*positional, **keywords))
        return stand_in(*positional, **keywords)

    install(monkeypatch, module, **{function: recorded})
    assert attention_backends()[name] is None
    q, k, v = (part.detach().to("meta", torch.bfloat16) for part in drawn())
    assert attention_kernel(name)(q, k, v).shape == SHAPE
    assert [list(call.arguments.values()) for call in seen] == [[q, k, v]]


@pytest.mark.parametrize("name", STAND_INS)
def test_packages_that_are_missing(name, monkeypatch):
    module = STAND_INS[name][0]
    install(monkeypatch, module)
    monkeypatch.setitem(sys.modules, module, None)  # as import sees a package that is not there
    reason = attention_backends()[name]
    assert module in reason and BACKENDS[name].get in reason
    with pytest.raises(ValueError, match=f"attention '{name}' is not installed .*{module}.*others are sdpa"):
        SelfAttention(12, 3, attention=name)


def test_flash_attention_4_alone_is_not_flash_attention_2(monkeypatch):
    install(monkeypatch, "flash_attn.cute", flash_attn_func=flash_attn_4)
    reasons = attention_backends()
    assert reasons["flash4"] is None
    assert "flash_attn_func" in reasons["flash2"]


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.gpu])
def test_backends_of_a_gpu_refuse_the_cpu(name, monkeypatch):
    if name in STAND_INS:
        module, function, stand_in = STAND_INS[name]
        install(monkeypatch, module, **{function: stand_in})
    with pytest.raises(ValueError, match=f"attention '{name}' runs on a GPU alone, and got tensors on cpu"):
        attention_kernel(name)(*drawn(torch.bfloat16))
    if BACKENDS[name].dtypes:
        with pytest.raises(TypeError, match=f"attention '{name}' needs float16 or bfloat16 and got torch.float32"):
            attention_kernel(name)(*(part.to("meta") for part in drawn()))


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"attention must be one of sdpa, .*xformers, got 'flash'"):
        SelfAttention(12, 3, attention="flash")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BACKENDS)
def test_backends_agree(name, dtype):
    backend = BACKENDS[name]
    if backend.missing() is not None:
        pytest.skip(backend.missing())
    if backend.gpu and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if backend.dtypes and dtype not in backend.dtypes:
        pytest.skip(f"does not take {dtype}")
    device = "cuda" if backend.gpu else "cpu"
    parts = drawn(dtype, device)
    result = attention_kernel(name)(*parts)
    exact = [part.detach().double().requires_grad_() for part in parts]
    expected = by_definition(*exact)
    assert result.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(device)
    gradients = torch.autograd.grad((result * weights).sum(), parts)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=2 * tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("name", ["sdpa", "sdpa_math", "sdpa_flash"])
def test_a_forced_kernel_runs_and_compiles_in_one_graph(name):
    torch.compiler.reset()
    sizes = {"input_size": 4, "in_channels": 1, "patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
    network = DiT(**sizes, frequency_size=8, attention=name, generator=torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    tokens, condition = torch.randn(2, 4, 8), torch.randn(2, 8)
    block = network.blocks[0]
    expected = block(tokens, condition)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(tokens, condition), expected)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        block(tokens, condition)
    ran = {event.name for event in profile.events()}
    assert ("aten::_scaled_dot_product_attention_math" in ran) == (name == "sdpa_math")


def test_a_package_without_a_rule_gives_no_wrong_derivative():
    @torch.library.custom_op("rcgm_tests::attention", mutates_args=())
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return by_definition(q, k, v)

    attend = AttentionBackend(lambda: attention, get="pip install it").kernel("packaged")
    q, k, v = drawn()
    torch.testing.assert_close(attend(q, k, v), by_definition(q, k, v))
    for derivative in (torch.func.jvp, by_dual_numbers):
        with pytest.raises(NotImplementedError, match=r"attention 'packaged' is not known .* forward-mode AD \(jvp\)"):
            derivative(attend, (q, k, v), (k, v, q))


def by_dual_numbers(function, point, tangents):
    with forward_ad.dual_level():
        return function(*map(forward_ad.make_dual, point, tangents))


def test_the_check_for_derivatives_compiles_in_one_graph():
    attend = AttentionBackend(lambda: by_definition, get="pip install it").kernel("packaged")
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    q, k, v = drawn()
    torch.testing.assert_close(compiled(q, k, v), by_definition(q, k, v))
