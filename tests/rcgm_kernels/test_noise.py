"""Noise drawn in the kernels: the published vectors, agreement of the backends, independence of launch and split."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rcgm_kernels import Noise, interpolate, standard_normal
from rcgm_kernels.backends import philox
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import SAMPLE_SHAPES, cpu_implementations, every, running, threads

COMMON = Path(__file__).resolve().parents[2] / "csrc" / "common"
# Random123, kat_vectors: counter, key, words of philox4x32 with 10 rounds.
KNOWN = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
SEEDS = st.integers(-(2**63), 2**63 - 1)
NOISES = st.builds(
    lambda seed, offset, stream: Noise(torch.tensor(seed), offset, stream),
    SEEDS,
    st.sampled_from([0, 1, 2**32 - 2, 2**40 + 5, 2**63 - 10]),
    st.sampled_from([0, 3, 2**32 - 1]),
)
# An ulp in each of the logarithm, the root, the sine and the product.
ULPS = 2**-21


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def assert_rounded(actual: Tensor, exact: Tensor) -> None:
    assert ((actual - exact).abs() <= ULPS * exact.abs() + 1e-12).all()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """csrc/common/noise.h itself, compiled without fused arithmetic."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("noise")
    source = folder / "noise.cpp"
    source.write_text(f"""
#include <math.h>
#include <stdint.h>
#include <string.h>
#define RCGM_FN static inline
#define RCGM_FMA(a, b, c) ((a) * (b) + (c))
#include "{COMMON / "bits.h"}"
#include "{COMMON / "noise.h"}"
extern "C" void words_of(const uint32_t* c, uint64_t key, uint32_t* out) {{
  const Four words = philox({{c[0], c[1], c[2], c[3]}}, key);
  out[0] = words.x, out[1] = words.y, out[2] = words.z, out[3] = words.w;
}}
extern "C" void normals_of(uint64_t seed, uint64_t sample, uint32_t stream, uint32_t block, float* out) {{
  const FourNormals drawn = normal_block(seed, sample, stream, block);
  memcpy(out, &drawn, sizeof drawn);
}}
extern "C" void pairs_of(const uint32_t* radial, const uint32_t* angular, float* out, int count) {{
  for (int i = 0; i < count; ++i) normal_pair(radial[i], angular[i], out + 2 * i, out + 2 * i + 1);
}}
""")
    library = folder / "noise.so"
    subprocess.run([compiler, "-std=c++17", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected, shared):
    got = philox.words(*(tuple(torch.tensor(word) for word in words(text)) for text in (counter, key)))
    assert [int(word) for word in got] == words(expected)
    low, high = words(key)
    out = (ctypes.c_uint32 * 4)()
    shared.words_of((ctypes.c_uint32 * 4)(*words(counter)), ctypes.c_uint64(high << 32 | low), out)
    assert list(out) == words(expected)


def test_elements_and_samples_beyond_32_bits(shared):
    generator = torch.Generator().manual_seed(0)
    seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator)
    samples = torch.randint(2**63 - 1, (50,), generator=generator)
    blocks = torch.cat([torch.arange(0, 2**32, 2**32 // 49), torch.tensor([2**32 - 1])])[:50]
    expected = philox.normals(seed, samples, 2**32 - 1, blocks)
    out = (ctypes.c_float * 4)()
    for sample, block, wanted in zip(samples.tolist(), blocks.tolist(), expected, strict=True):
        shared.normals_of(ctypes.c_uint64(int(seed) & (2**64 - 1)), ctypes.c_uint64(sample), 2**32 - 1, block, out)
        assert_rounded(torch.tensor(list(out)), wanted)
    assert expected.unique().numel() == expected.numel()


def test_pairs_of_every_size_and_angle(shared):
    edges = [0, 1, 2**24, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 2**31 + 2**29, 3 * 2**30, 2**32 - 129, 2**32 - 1]
    drawn = torch.randint(2**32, (20000,), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(a, b) for a in edges for b in edges] + list(zip(drawn[::2], drawn[1::2], strict=True))
    radial, angular = ((ctypes.c_uint32 * len(pairs))(*values) for values in zip(*pairs, strict=True))
    out = (ctypes.c_float * (2 * len(pairs)))()
    shared.pairs_of(radial, angular, out, len(pairs))
    numbers = torch.tensor(pairs)
    exact = torch.stack(philox._pair(numbers[:, 0], numbers[:, 1]), 1)
    # near an axis the angle's own rounding, 2^-24, is all that is left of a cosine
    radius = exact.norm(dim=1, keepdim=True)
    assert ((torch.tensor(list(out)).view(-1, 2) - exact).abs() <= ULPS / 2 * radius).all()
    assert exact.abs().max() < 6.8


@given(NOISES, st.sampled_from([0, 1, 2, 5]), st.sampled_from(SAMPLE_SHAPES), st.sampled_from(STORAGE_DTYPES))
@every(60)
def test_backends_agree(noise, batch, sample, dtype):
    shape = (batch, *sample)
    exact = standard_normal(noise, shape, backend="reference")
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            drawn = standard_normal(noise, shape, dtype=dtype, backend=backend)
        assert (drawn.shape, drawn.dtype) == (shape, dtype)
        assert drawn.is_contiguous()
        rounding = ULPS + (torch.finfo(dtype).eps if dtype.itemsize == 2 else 0)
        assert ((drawn.double() - exact).abs() <= rounding * exact.abs() + 1e-7).all()


@given(
    NOISES,
    st.sampled_from([0, 1, 3]),
    st.sampled_from(SAMPLE_SHAPES),
    st.integers(1, 3),
    st.sampled_from(STORAGE_DTYPES),
    st.one_of(st.none(), st.sampled_from(STORAGE_DTYPES)),
)
@every(60)
def test_points_are_those_of_the_stored_noise(noise, batch, sample, points, dtype, out_dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *sample, generator=generator).to(dtype)
    alpha, gamma = torch.rand(2, points, batch, generator=generator)
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            z = standard_normal(noise, x.shape, backend=backend)
            drawn = interpolate(x, noise, alpha, gamma, dtype=out_dtype, backend=backend)
            stored = interpolate(x, z, alpha, gamma, dtype=out_dtype, backend=backend)
        assert torch.equal(drawn, stored)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_numbers_depend_on_nothing_but_their_place(implementation):
    noise = Noise(torch.tensor(7), offset=2**33)
    with running(implementation) as backend:
        whole = standard_normal(noise, (6, 3, 5001), backend=backend)
        ranks = [standard_normal(replace(noise, offset=2**33 + 2 * k), (2, 3, 5001), backend=backend) for k in range(3)]
        assert torch.equal(torch.cat(ranks), whole)
        for size in (1, 2, 3, 5, 514, 4099):
            start = standard_normal(noise, (6, size), backend=backend)
            assert torch.equal(start, whole.reshape(6, -1)[:, :size])
        with threads(3):
            assert torch.equal(standard_normal(noise, (6, 3, 5001), backend=backend), whole)
        for other in (replace(noise, seed=torch.tensor(8)), replace(noise, stream=1), replace(noise, offset=2**33 + 6)):
            assert not (standard_normal(other, (6, 3, 5001), backend=backend) == whole).any()


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_the_numbers_are_standard_normal(implementation):
    with running(implementation) as backend:
        drawn = standard_normal(Noise(torch.tensor(0)), (200, 5000), backend=backend).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        spread = math.sqrt(math.prod(range(2 * power - 1, 0, -2)) / drawn.numel())
        assert abs(drawn.pow(power).mean() - moment) < 4 * spread
    # neighbours in a pair, a block, a sample, and samples, are unrelated
    for lag in (1, 2, 3, 4):
        assert abs((drawn[:, :-lag] * drawn[:, lag:]).mean()) < 4 / math.sqrt(drawn.numel())
    assert abs((drawn[:-1] * drawn[1:]).mean()) < 4 / math.sqrt(drawn.numel())
    assert drawn.flatten().unique().numel() > 0.95 * drawn.numel()


def test_gradients_flow_to_the_data_alone():
    noise = Noise(torch.tensor(3))
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    alpha, gamma = torch.rand(2, 4, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: interpolate(x, noise, alpha, gamma), (x,))
    half = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    interpolate(half, noise, alpha, gamma, dtype=torch.float32).sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_a_changed_seed_gives_new_noise_from_the_same_object():
    noise = Noise(torch.tensor(3))
    before = standard_normal(noise, (2, 5))
    noise.seed.add_(1)
    assert torch.equal(standard_normal(noise, (2, 5)), standard_normal(Noise(torch.tensor(4)), (2, 5)))
    assert not torch.equal(standard_normal(noise, (2, 5)), before)


def test_seeds_come_from_a_generator():
    def drawn(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [int(Noise.draw(generator, "cpu").seed) for _ in range(3)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1)}) == 6
    noise = Noise.draw(torch.Generator().manual_seed(0), "meta", offset=3, stream=2)
    assert (noise.seed.device.type, noise.offset, noise.stream) == ("meta", 3, 2)


X, ONES = torch.ones(2, 3), torch.ones(1, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Noise(3), TypeError, "seed must be a tensor, got int"),
        (lambda: Noise(torch.tensor(1.0)), TypeError, "seed must be of dtype int64, got float32"),
        (lambda: Noise(torch.tensor([1])), ValueError, r"seed must have no dimension, got the shape \[1\]"),
        (lambda: Noise(torch.tensor(1), -1), ValueError, "offset must be from 0 to 9223372036854775807, got -1"),
        (lambda: Noise(torch.tensor(1), 0, 2**32), ValueError, "stream must be from 0 to 4294967295, got 4294967296"),
        (lambda: Noise(torch.tensor(1), 1.0), TypeError, "offset must be a whole number, got float"),
        (lambda: standard_normal(torch.tensor(1), (2,)), TypeError, "noise must be a Noise, got Tensor"),
        (lambda: standard_normal(Noise(torch.tensor(1)), ()), ValueError, "shape must have a batch dimension"),
        (lambda: standard_normal(Noise(torch.tensor(1)), (1, 2**34 + 1)), ValueError, "at most 17179869184 elements"),
        (lambda: standard_normal(Noise(torch.tensor(1), 2**63 - 1), (2, 1)), ValueError, "room for 2 samples"),
        (lambda: standard_normal(Noise(torch.tensor(1)), (2, 1), dtype=torch.int8), TypeError, "dtype must be one of"),
        (
            lambda: interpolate(X, Noise(torch.tensor(1, device="meta")), ONES, ONES),
            ValueError,
            "the seed of z must be on cpu, got meta",
        ),
        (lambda: interpolate(X, Noise(torch.tensor(1)), ONES[0], ONES), ValueError, "alpha must have the shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
