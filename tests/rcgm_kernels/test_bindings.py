"""The C++ extension reads tensors, and refuses anything else before it touches memory."""

from __future__ import annotations

import pytest
import torch

from rcgm_kernels.backends import cpu
from rcgm_kernels.backends.cpu import _cpu
from rcgm_kernels.known import known_calls
from tests.support.implementations import environment

pytestmark = pytest.mark.skipif(_cpu is None, reason="the extension is not there")
X, T = torch.ones(2, 3), torch.ones(2)


@pytest.mark.parametrize("wrong", [None, 1, X.numpy(), "x", [X]], ids=lambda value: type(value).__name__)
def test_what_is_no_tensor_is_refused(wrong):
    with pytest.raises(TypeError, match="a tensor is needed, got"):
        _cpu.advance(wrong, X, T, T, X.clone(), 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="a tensor of float64, float32, float16 or bfloat16 is needed"):
        _cpu.advance(X.to(dtype), X, T, T, X.clone(), 1)


def test_numbers_of_samples_in_16_bits_are_refused():
    with pytest.raises(TypeError, match="numbers in float32 or float64 are needed"):
        _cpu.advance(X, X, T.half(), T, X.clone(), 1)


def test_a_tensor_without_samples_is_refused():
    with pytest.raises(ValueError, match="a tensor with a batch dimension is needed"):
        _cpu.advance(torch.tensor(1.0), X, T, T, X.clone(), 1)


@pytest.mark.parametrize("without_memory", [X.to("meta"), X.to_sparse()], ids=["meta", "sparse"])
def test_a_tensor_without_memory_is_refused(without_memory):
    # The errors are torch's own: they differ by the kind of tensor and the version.
    with pytest.raises((RuntimeError, BufferError, NotImplementedError, ValueError)):
        _cpu.advance(without_memory, X, T, T, X.clone(), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_and_stride_is_read_as_what_it_is(dtype):
    x = torch.arange(24.0).to(dtype).view(4, 6)[::2, 1:4]
    out = torch.empty(2, 3, dtype=dtype)
    cpu.advance_(out, x, torch.ones_like(x), torch.tensor([3.0, 1.0, 2.0])[::2], torch.tensor(1.0).double().expand(2))
    torch.testing.assert_close(out, x - torch.tensor([[2.0], [1.0]], dtype=dtype), rtol=0, atol=0)


def test_known_calls_are_told_apart_by_the_environment_and_by_what_observes_them():
    observed = []
    calls = _cpu.KnownCalls("RCGM_TEST_VARIABLE", (lambda: observed,))
    calls.remember((X, None, [T]), (1.0, "a"), "known")
    assert calls.find((X.clone(), None, [T]), (1.0, "a")) == "known"
    assert calls.find((X, None, [T]), (1, "a")) is None
    assert calls.find((X, T, [T]), (1.0, "a")) is None
    assert calls.find((X, None, T), (1.0, "a")) is None
    assert calls.find((X, None, [T]), (1.0, "a", None)) is None
    with environment("RCGM_TEST_VARIABLE", "other"):
        assert calls.find((X, None, [T]), (1.0, "a")) is None
    observed.append("a mode")
    assert calls.find((X, None, [T]), (1.0, "a")) is None


def test_known_calls_take_no_more_memory_than_they_need():
    calls = known_calls("RCGM_TEST_VARIABLE")
    for size in range(3000):
        calls.remember((torch.empty(size),), (), size)
    assert calls.find((torch.empty(2999),), ()) == 2999
    assert sum(calls.find((torch.empty(size),), ()) is not None for size in range(3000)) <= 1024
