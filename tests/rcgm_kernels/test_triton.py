"""The Triton kernels: in the interpreter (or on a GPU) against the reference in float64, and compiled to PTX."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from cases import LossCase, assert_gradient_close, assert_loss_close, every, loss_cases, poisoned_memory
from hypothesis import given
from hypothesis import strategies as st

import rcgm_kernels
from rcgm_kernels import Metric, fused_loss
from rcgm_kernels.backends import triton as backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=f"triton: {backend.unavailable()}")


@given(loss_cases(most_elements=20_000))
@every(60)
def test_losses_agree_with_float64(case: LossCase):
    call = case.call()
    expected_loss, expected_gradient = call.upcast().run("reference")
    double = any(tensor.dtype == torch.float64 for tensor in call.states())
    rounding = call.rounding() * (1e-7 if double else 1.0)
    with poisoned_memory():
        loss, gradient = call.to(DEVICE).run("triton")
    assert_loss_close(loss.cpu(), expected_loss, rounding)
    assert_gradient_close(gradient.cpu(), expected_gradient, 10 * rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16_384, 16_385, 40_001])
@pytest.mark.parametrize("metric", [Metric(), Metric("pseudo_huber", 0.1, cosine=0.5)])
def test_samples_of_one_program_and_of_several(size: int, metric: Metric, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(size)
    pred, first, velocity = (torch.randn(2, size, generator=generator).to(dtype) for _ in range(3))
    times = torch.tensor([[0.9, 0.5], [0.89, 0.5], [0.2, 0.5]])

    def run(convert, name):
        given = convert(pred).requires_grad_()
        loss = fused_loss(
            given, [convert(first)], convert(velocity), times.to(given.device), metric=metric, backend=name
        )
        return loss.detach(), torch.autograd.grad(loss, given)[0]

    expected_loss, expected_gradient = run(lambda x: x.double(), "reference")
    with poisoned_memory():
        loss, gradient = run(lambda x: x.to(DEVICE, copy=True), "triton")
    assert_loss_close(loss.cpu(), expected_loss)
    assert_gradient_close(gradient.cpu(), expected_gradient)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [5, 20_000])
def test_a_bad_sample_stays_alone(size: int, bad: float):
    generator = torch.Generator().manual_seed(0)
    pred, velocity = (torch.randn(3, size, generator=generator).to(DEVICE) for _ in range(2))
    times = torch.tensor([[0.9] * 3, [0.1] * 3], device=DEVICE)

    def run(values):
        values = values.clone().requires_grad_()
        loss = fused_loss(values, [], velocity, times, clip=None, reduction="none", backend="triton")
        return loss.detach(), torch.autograd.grad(loss.sum(), values)[0]

    clean_loss, clean_gradient = run(pred)
    pred[1, size // 2] = bad
    loss, gradient = run(pred)
    assert not torch.isfinite(loss[1])
    for sample in (0, 2):
        assert torch.equal(loss[sample], clean_loss[sample])
        assert torch.equal(gradient[sample], clean_gradient[sample])


@given(
    batch=st.integers(0, 4),
    size=st.sampled_from([0, 1, 3, 257, 5000]),
    points=st.integers(1, 3),
    dtypes=st.tuples(*[st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])] * 3),
)
@every(25)
def test_path_agrees_with_float64(batch: int, size: int, points: int, dtypes: tuple):
    generator = torch.Generator().manual_seed(size)
    x, z = (torch.randn(batch, size, generator=generator).to(dtype) for dtype in dtypes[:2])
    alpha, gamma = torch.rand(2, points, batch, generator=generator)
    where = [value.to(DEVICE) for value in (x, z, alpha, gamma)]
    with poisoned_memory():
        made = rcgm_kernels.interpolate(*where, dtype=dtypes[2], backend="triton").cpu()
    assert_gradient_close(made, rcgm_kernels.interpolate(x.double(), z.double(), alpha, gamma, backend="reference"))
    out = torch.full((batch, size), torch.nan).to(dtypes[2])
    stepped = rcgm_kernels.advance(*where[:2], where[2][0], where[3][0], out=out.to(DEVICE), backend="triton").cpu()
    expected = rcgm_kernels.advance(x.double(), z.double(), alpha[0], gamma[0], backend="reference")
    assert_gradient_close(stepped, expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_ema_of_a_model(decay: float):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (0,), (70, 70), (5000,), (1,)]
    averages = [torch.randn(shape, generator=generator) for shape in shapes]
    params = [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in zip(
        shapes, [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16], strict=True)]  # fmt: skip
    here = [[tensor.to(DEVICE, copy=True) for tensor in tensors] for tensors in (averages, params)]
    copies = [torch.full(shape, torch.nan, dtype=torch.bfloat16, device=DEVICE) for shape in shapes]
    rcgm_kernels.ema_update_(*here, decay, copies, backend="triton")
    for index, (average, param) in enumerate(zip(averages, params, strict=True)):
        expected = decay * average.double() + (1 - decay) * param.double()
        assert_gradient_close(here[0][index].cpu(), expected)
        assert_gradient_close(copies[index].cpu(), expected)
        if decay in (0.0, 1.0):
            assert torch.equal(here[0][index].cpu(), (average if decay else param.float()))


@pytest.mark.parametrize(("upstream", "factor"), [(1.0, 1.0), (3.0, 3.0), ([2.0, 1.0, -1.0], None)])
def test_upstream_gradient(upstream, factor):
    gradient = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    scaled = gradient.to(DEVICE, copy=True)
    by = torch.tensor(upstream)
    backend.scale_gradient_(scaled, by.to(DEVICE), 1.0)
    torch.testing.assert_close(scaled.cpu(), gradient * (by[:, None] if factor is None else factor), rtol=0, atol=0)


COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rcgm_kernels.backends.triton import loss, path, scale
import triton.language as tl

def ptx(kernel, signature, constexprs, aligned):
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["ptx"]

kind = sys.argv[1]
for kernel, named, fixed in (
    (scale._scale, {"GRADIENT": "*" + kind, "UPSTREAM": "*fp32", "SIZE": "i32", "CHUNKS": "i32", "STRIDE": "i32"},
     {"DIVISOR": 1.0, "PER_SAMPLE": False, "COMPUTE": tl.float32, "COLUMNS": 4096}),
    (path._interpolate, {"X": "*" + kind, "Z": "*" + kind, "ALPHA": "*fp32", "GAMMA": "*fp32", "OUT": "*" + kind,
    "BATCH": "i32",
     "SIZE": "i32", "CHUNKS": "i32", "X_STRIDE": "i32", "Z_STRIDE": "i32"},
     {"POINTS": 2, "COMPUTE": tl.float32, "COLUMNS": 4096}),
    (path._advance, {"OUT": "*" + kind, "X": "*" + kind, "VELOCITY": "*" + kind, "T": "*fp32", "R": "*fp32", "SIZE":
    "i32",
     "CHUNKS": "i32", "OUT_STRIDE": "i32", "X_STRIDE": "i32", "VELOCITY_STRIDE": "i32"},
     {"COMPUTE": tl.float32, "COLUMNS": 4096}),
    (loss._whole_samples, {"PRED": "*" + kind, "TENSORS": ("*" + kind,) * 4, "PRED_STRIDE": "i32", "STRIDES": ("i32",)
    * 4,
     "SCALARS": "*fp32", "LOSSES": "*fp32", "GRADIENT": "*" + kind, "BATCH": "i32", "SIZE": "i32"},
     {"PRED_COEFF": None, "SCALE": None, "WEIGHT": None, "TIMES": True, "PRED_FIRST": True, "HAS_CLIP": True, "CLIP":
     1.0,
      "COSINE": 0.0, "COMPUTE": tl.float32, "METRIC": "l2", "C": 1.0, "ALPHA": 1.0, "NORMALIZE": -1.0, "POWER": 0.0,
      "EPS": 0.0, "MEAN": True, "STORAGE_SCALE": 1.0, "WITH_GRADIENT": True, "ROWS": 1, "COLUMNS": 4096}),
):
    signature = {name: named.get(name, "constexpr") for name in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    aligned = [kernel.arg_names.index(name) for name, type in named.items()
               if not isinstance(type, tuple) and (type.startswith("*") or "SIZE" in name or "STRIDE" in name)]
    text = ptx(kernel, signature, constexprs, aligned)
    assert ".target sm_90" in text, kernel
    print(kernel.fn.__name__, "ld.global.v" in text)
"""


@pytest.mark.parametrize("storage", ["bf16", "fp32"])
def test_compiles_ahead_of_time_for_sm_90(storage: str):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE, storage], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "_scale",
        "_interpolate",
        "_advance",
        "_whole_samples",
    ]
    assert "_interpolate True" in done.stdout  # 16-byte loads where the arguments are known to be aligned
