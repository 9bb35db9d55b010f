"""The Triton kernels compiled ahead of time, and what is said where they cannot run.

The interpreter knows nothing of how arguments are specialised, so the compiler is given the launches that the wrappers
make.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from rcgm_kernels.backends import ENVIRONMENT, choose
from rcgm_kernels.backends import triton as backend
from tests.support.implementations import environment
from tests.support.triton_cases import DEVICE


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about machines without a GPU")
def test_the_interpreter_runs_only_when_named():
    with environment(ENVIRONMENT, None):
        assert choose(None, DEVICE).NAME != "triton"
    assert not backend.supports(torch.device("meta"))


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in backend.unavailable()


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about machines without a GPU")
def test_the_variable_turns_the_interpreter_on():
    # Or else all tests above would be skipped, and nobody would notice.
    pytest.importorskip("triton")
    program = """
import torch
from rcgm_kernels.backends import choose, triton
print(triton.unavailable(), choose("triton", torch.device("cpu")).NAME)
"""
    assert _python(program, interpreted=True).split() == ["None", "triton"]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about machines without a GPU")
def test_without_a_gpu_or_the_interpreter():
    program = """
import sys, torch, rcgm_kernels
x, t = torch.ones(1, 2), torch.ones(1)
rcgm_kernels.advance(x, x, t, t)
assert "triton" not in sys.modules
try:
    rcgm_kernels.advance(x, x, t, t, backend="triton")
except ValueError as error:
    print(error)
"""
    assert "TRITON_INTERPRET=1" in _python(program)


COMPILE = """
import json, re, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Device:
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

driver.set_active(Device)
compiled, run = [], JITFunction.run

def compile_only(self, *arguments, grid, warmup, **options):
    kernel = run(self, *arguments, grid=grid, warmup=True, **options)
    code = kernel.asm["ptx"]
    loads = re.findall(r"ld\\.global\\.(?:L1::\\w+\\.)?(?:v(\\d+)\\.)?b(\\d+)", code)
    compiled.append({
        "kernel": self.fn.__name__, "hash": kernel.hash, "sm_90": ".target sm_90" in code,
        "load": max(int(count or 1) * int(bits) for count, bits in loads), "local": ".local" in code,
    })

JITFunction.run = compile_only

from rcgm_kernels import AdaptiveWeight, Metric
from rcgm_kernels.backends import triton as backend
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.options import LossOptions
from rcgm_kernels.plan import LossPlan

def loss(batch, size, dtype, order=2, times=True, first=True, own=None, metric=Metric(), clip=1.0, normalize=None,
         channels=None, adaptive=None, scale=False, gradient=True, reduce="mean"):
    options = LossOptions(times, first, clip, metric, normalize, adaptive, reduce, "mean", gradient)
    numbers, shape = torch.ones(batch), (batch, size) if channels is None else (batch, channels, size // channels)
    inputs = LossInputs(
        torch.zeros(shape, dtype=dtype), [torch.zeros(shape, dtype=dtype) for _ in range(order + 1)],
        torch.zeros(order + 2 if times else order + 1, batch), own, numbers if scale else None,
        numbers if scale else None, numbers if scale and normalize is not None else None,
    )
    backend.residual_loss(inputs, LossPlan.of(inputs, options))

def path(batch, size, dtype):
    x, t = torch.zeros(batch, size, dtype=dtype), torch.zeros(2, batch)
    backend.interpolate(x, x, t, t, dtype)
    backend.advance_(x.clone(), x, x, t[0], t[1])
    backend.scale_gradient_(x, t[0], t[1])
    backend.scale_gradient_(x, torch.ones(()), t[0, :0])

def ema(dtype, decay, copies=True):
    averages = [torch.zeros(n) for n in (5000, 8192)]
    params = [average.to(dtype) for average in averages]
    backend.ema_update_(averages, params, decay, [param.clone() for param in params] if copies else [])
"""


def compiled(calls: str) -> list[dict]:
    """What the launches that ``calls`` make compile to for sm_90, launch by launch."""
    return json.loads(_python(COMPILE.replace("\\\\", "\\") + calls + "\nprint(json.dumps(compiled))"))


def _python(program: str, interpreted: bool = False) -> str:
    """The output of a Python process in which Triton is interpreted, or is not."""
    variables = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", ENVIRONMENT)}
    variables |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


needs_triton = pytest.mark.skipif(
    "triton" in (backend.unavailable() or ""), reason="the package triton is not installed"
)


@needs_triton
def test_every_kernel_compiles_to_wide_loads():
    kernels = compiled("""
for dtype in (torch.bfloat16, torch.float32):
    loss(4, 4096, dtype)
    loss(4, 16384, dtype)
    loss(2, 65536, dtype)
    loss(2, 65536, dtype, metric=Metric("pseudo_huber"))
    loss(2, 4096, dtype, metric=Metric(cosine=0.5), channels=4)
    loss(2, 131072, dtype, metric=Metric(cosine=0.5), channels=32)
    path(4, 4096, dtype)
    ema(dtype, 0.999)
""")
    assert all(kernel["sm_90"] for kernel in kernels)
    names = {kernel["kernel"] for kernel in kernels}
    assert names == {
        "whole_samples", "sums_of_samples", "finish_samples", "gradient_of_samples", "whole_channels",
        "sums_of_channels", "gradient_of_channels", "_interpolate", "_advance", "_scale", "_ema"
    }  # fmt: skip
    narrow = [kernel for kernel in kernels if kernel["load"] < 128]
    assert {kernel["kernel"] for kernel in narrow} == {"finish_samples"}  # which reads a few sums
    assert not any(kernel["local"] for kernel in kernels)


@needs_triton
def test_every_form_compiles():
    # Arguments of 1, None and empty tuples are specialised: what the interpreter takes may not compile.
    kernels = compiled("""
half = torch.bfloat16
for batch, size in ((1, 1), (1, 7), (300, 1), (1, 4096), (1, 20001)):
    loss(batch, size, half)
    path(batch, size, half)
for shape in (2.0, 1.0, 0.0, float("-inf")):
    loss(3, 35, half, metric=Metric("barron", 1.0, shape))
for metric in (Metric(cosine=0.5), Metric("pseudo_huber", 1.0, cosine=0.5), Metric("barron", cosine=0.5)):
    loss(2, 20001, half, metric=metric, adaptive=AdaptiveWeight())
    loss(2, 20001, torch.float16, metric=metric, adaptive=AdaptiveWeight(of="loss"))
    for channels, size in ((3, 21), (1, 40), (256, 512), (16, 40000)):
        loss(2, size, torch.float16, metric=metric, adaptive=AdaptiveWeight(of="loss"), channels=channels)
for size in (35, 20001):
    loss(3, size, torch.float16)
    loss(3, size, torch.float16, clip=float("inf"), reduce="sum")
for shape in (2.0, 1.0, float("-inf")):
    loss(3, 35, half, metric=Metric("barron_reweighting", 1.0, shape))
loss(3, 35, half, first=False, normalize=0.1, clip=float("inf"))
loss(3, 35, half, times=False, normalize=0.1, scale=True)
loss(3, 35, half, order=-1, times=False)
loss(3, 35, half, times=False, own=torch.ones(3), scale=True)
loss(3, 35, half, times=False, first=False, gradient=False, metric=Metric(cosine=0.5))
loss(2, 20001, half, gradient=False)
loss(2, 35, half, order=16)
loss(2, 8192, torch.float64, metric=Metric("barron", cosine=0.5))
ema(torch.float64, 0.1, copies=False)
""")
    assert len({kernel["hash"] for kernel in kernels}) > 25


@needs_triton
def test_changing_a_number_compiles_nothing():
    kernels = compiled("""
for number in (0.1, 0.2, 0.3):
    loss(3, 35, torch.float32, clip=number, metric=Metric("barron", number, number, cosine=number),
         adaptive=AdaptiveWeight(number, number))
    ema(torch.float32, 0.9 + 0.1 * number)
for batch in (5, 6, 16):
    loss(batch, 4096, torch.float32)
""")
    assert len(kernels) == 9
    assert len({kernel["hash"] for kernel in kernels}) <= 3 + 1  # (a batch of 16 fills another block)
