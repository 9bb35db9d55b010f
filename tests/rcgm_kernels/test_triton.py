"""The Triton kernels: in the interpreter (or on a GPU) against the reference in float64, and compiled ahead of time.

The interpreter is chosen by TRITON_INTERPRET=1, which tests/conftest.py sets where there is no GPU. It knows nothing of
how arguments are specialised, so the compiler is also given the launches that the wrappers make.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rcgm_kernels
from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from rcgm_kernels.backends import ENVIRONMENT, choose
from rcgm_kernels.backends import triton as backend
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import (
    LossCall,
    LossCase,
    assert_gradient_close,
    assert_loss_close,
    environment,
    every,
    loss_cases,
    poisoned_memory,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
runs = pytest.mark.skipif(
    backend.unavailable() is not None or not backend.supports(DEVICE),
    reason=f"triton does not run here: {backend.unavailable() or 'TRITON_INTERPRET=1 was set too late'}",
)
# NumPy, which the interpreter computes with, warns of the infinities that some cases are about.
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def check(case: LossCase) -> None:
    call = case.call()
    expected_loss, expected_gradient = call.upcast().run("reference")
    double = any(tensor.dtype == torch.float64 for tensor in call.states())
    rounding = call.rounding() * (1e-7 if double else 1.0)
    given_call = call if DEVICE.type == "cpu" else call.to(DEVICE)
    with poisoned_memory():
        loss, gradient = given_call.run("triton")
    assert_loss_close(loss.cpu(), expected_loss, rounding)
    assert_gradient_close(gradient.cpu(), expected_gradient, 10 * rounding)


@runs
@quiet
@given(loss_cases(most_elements=20_000))
@every(100)
def test_losses_agree_with_float64(case: LossCase):
    check(case)


@runs
@quiet
@pytest.mark.parametrize("metric", [Metric(cosine=0.5), Metric("pseudo_huber", 0.1, cosine=0.5)], ids=["l2", "huber"])
@pytest.mark.parametrize("sample", [(2, 5), (3, 7, 11), (130, 2), (4, 4096), (16, 1500), (300, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_cosine_over_channels_agrees_with_float64(sample: tuple[int, ...], dtype: torch.dtype, metric: Metric):
    generator = torch.Generator().manual_seed(0)
    pred, segment, velocity = (torch.randn(2, *sample, generator=generator).to(dtype) for _ in range(3))
    times, weight = torch.tensor([[0.9, 0.8], [0.7, 0.6], [0.2, 0.6]]), torch.tensor([0.5, 2.0])
    arguments = {"segments": [segment], "velocity": velocity, "times": times, "base": None, "weight": weight}
    call = LossCall(fused_loss, pred, {**arguments, "metric": metric, "adaptive": AdaptiveWeight(0.5, 1e-3, "loss")})
    expected_loss, expected_gradient = call.upcast().run("reference")
    with poisoned_memory():
        loss, gradient = call.to(DEVICE).run("triton")
    share = 1e-11 if dtype == torch.float64 else 1e-5
    assert_loss_close(loss.cpu(), expected_loss, share)
    assert_gradient_close(gradient.cpu(), expected_gradient, 10 * share)


@runs
@quiet
@given(loss_cases(most_elements=20_000), st.sampled_from([16_385, 17_472]), st.integers(1, 2))
@every(12)
def test_losses_of_large_samples_agree_with_float64(case: LossCase, size: int, batch: int):
    check(replace(case, sample=(size,), batch=batch))


@runs
@pytest.mark.parametrize("times", [True, False])
def test_many_short_samples(times: bool):
    generator = torch.Generator().manual_seed(0)
    pred, first, last = torch.randn(3, 300, 3, generator=generator)
    pred[7], first[140, 1], last[299] = torch.nan, torch.inf, torch.nan
    knots = torch.tensor([0.9, 0.7, 0.2])[:, None].expand(3, 300)
    coeffs = torch.randn(2, 300, generator=generator)

    def run(convert, name):
        given = convert(pred).requires_grad_()
        others, options = [convert(first), convert(last)], {"reduction": "none", "clip": None, "backend": name}
        if times:
            loss = fused_loss(given, others[:1], others[1], knots.to(given.device), **options)
        else:
            loss = fused_residual_loss(given, others, coeffs.to(given.device), **options)
        return loss.detach(), torch.autograd.grad(loss.sum(), given)[0]

    expected_loss, expected_gradient = run(lambda x: x.double(), "reference")
    with poisoned_memory():
        loss, gradient = run(lambda x: x.to(DEVICE, copy=True), "triton")
    finite = torch.ones(300, dtype=torch.bool)
    finite[[7, 140, 299]] = False
    assert torch.equal(loss.cpu().isfinite(), finite)
    assert_loss_close(loss.cpu()[finite], expected_loss[finite], 1e-4)
    assert_gradient_close(gradient.cpu()[finite], expected_gradient[finite], 1e-3)


@runs
@pytest.mark.parametrize("size", [5, 17_000])
def test_a_term_without_coefficient_is_not_read(size: int):
    generator = torch.Generator().manual_seed(0)
    pred, first, second, bad = torch.randn(4, 3, size, generator=generator).to(DEVICE)
    coeffs = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.5, -1.0, 1.0]], device=DEVICE)
    own = torch.tensor([1.0, 0.0, 1.0], device=DEVICE)
    bad[:] = torch.nan

    def run(first, second, third, own, pred):
        given = pred.clone().requires_grad_()
        options = {"pred_coeff": own, "metric": "pseudo_huber", "reduction": "none", "backend": "triton"}
        loss = fused_residual_loss(given, [first, second, third], coeffs, **options)
        return loss.detach(), torch.autograd.grad(loss.sum(), given)[0]

    clean = run(first, second, bad.nan_to_num(1.0), own, pred)
    idle = (coeffs == 0)[..., None]
    spoilt = run(
        torch.where(idle[0], bad, first),
        torch.where(idle[1], bad, second),
        torch.where(idle[2], bad, torch.ones_like(bad)),
        own,
        torch.where((own == 0)[:, None], bad, pred),
    )
    assert clean[0].isfinite().all()
    for before, after in zip(clean, spoilt, strict=True):
        assert torch.equal(before, after)


@runs
@pytest.mark.skipif(DEVICE.type != "cpu", reason="only the interpreter shows what is read")
@pytest.mark.parametrize("size", [5, 17_000])
def test_memory_of_an_idle_term_is_not_touched(size: int, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    addresses, load = [], InterpreterBuilder.create_masked_load

    def spy(self, pointers, mask, *arguments):
        addresses.append(torch.from_numpy(pointers.data.astype("int64"))[torch.from_numpy(mask.data)])
        return load(self, pointers, mask, *arguments)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", spy)
    pred, first, second = (torch.ones(2, size) for _ in range(3))
    coeffs, own = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1.0, 0.0])
    fused_residual_loss(pred, [first, second], coeffs, pred_coeff=own, backend="triton")
    read = torch.cat(addresses)
    for tensor, coeff in zip((pred, first, second), (own, *coeffs), strict=True):
        for sample, used in zip(tensor, coeff != 0, strict=True):
            inside = (read >= sample.data_ptr()) & (read < sample.data_ptr() + 4 * size)
            assert len(read[inside].unique()) == (size if used else 0)


@runs
@quiet
@pytest.mark.parametrize("size", [5, 17_000])
def test_infinite_coefficients_stay_out_of_the_padding(size: int):
    pred = torch.ones(1, size, device=DEVICE)
    coeffs = torch.full((1, 1), torch.inf, device=DEVICE)
    loss = fused_residual_loss(pred, [2 * pred], coeffs, pred_coeff=0.0, clip=1.0, backend="triton")
    assert loss.item() == 1


@runs
@pytest.mark.parametrize("size", [5, 17_000])
def test_the_clamp_keeps_nan_and_bounds_infinity(size: int):
    pred = torch.zeros(3, size, device=DEVICE)
    pred[0, -1], pred[1, -1], pred[2, -1] = torch.nan, torch.inf, -torch.inf
    given = pred.requires_grad_()
    loss = fused_loss(
        given, [], torch.zeros_like(pred), torch.tensor([[0.9] * 3, [0.1] * 3], device=DEVICE), clip=2.0,
        reduction="none", backend="triton",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss.sum(), given)
    assert loss[0].isnan() and gradient[0, -1].isnan()
    torch.testing.assert_close(loss[1:].cpu(), torch.full((2,), 4 / size))
    torch.testing.assert_close(gradient[1:, -1].cpu(), torch.tensor([4 / size, -4 / size]))


@runs
def test_sums_of_very_many_chunks(monkeypatch):
    from rcgm_kernels.backends.triton import loss as module

    monkeypatch.setattr(module, "FINISHED_AT_ONCE", 4)  # so that 10 chunks take three rounds
    generator = torch.Generator().manual_seed(0)
    pred, velocity = torch.randn(2, 2, 40_001, generator=generator)
    knots = torch.tensor([[0.9, 0.5], [0.1, 0.5]])
    metric = Metric("barron", 0.5, 1.0, cosine=0.5)
    expected = fused_loss(pred.double(), [], velocity.double(), knots, metric=metric, backend="reference")
    with poisoned_memory():
        loss = fused_loss(pred.to(DEVICE), [], velocity.to(DEVICE), knots.to(DEVICE), metric=metric, backend="triton")
    assert_loss_close(loss.cpu(), expected)


@runs
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_tensors(shape: tuple[int, int], reduction: str):
    def run(name, device):
        pred = torch.zeros(shape, device=device, requires_grad=True)
        knots = torch.tensor([[0.9], [0.1]], device=device).expand(2, shape[0])
        loss = fused_loss(pred, [], torch.zeros_like(pred), knots, reduction=reduction, backend=name)
        loss.sum().backward()
        return loss.detach().cpu(), pred.grad.cpu()

    for actual, expected in zip(run("triton", DEVICE), run("reference", "cpu"), strict=True):
        torch.testing.assert_close(actual, expected, equal_nan=True)


@runs
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


@runs
@quiet
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


@runs
@given(
    batch=st.sampled_from([0, 1, 4, 130]),
    size=st.sampled_from([0, 1, 3, 257, 5000]),
    points=st.integers(1, 3),
    dtypes=st.tuples(*[st.sampled_from(STORAGE_DTYPES)] * 3),
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
    out = torch.full((batch, 2, size), torch.nan).to(dtypes[2]).to(DEVICE)
    stepped = rcgm_kernels.advance(*where[:2], where[2][0], where[3][0], out=out[:, 1], backend="triton").cpu()
    expected = rcgm_kernels.advance(x.double(), z.double(), alpha[0], gamma[0], backend="reference")
    assert_gradient_close(stepped, expected)
    assert out[:, 0].isnan().all()  # nothing but what was asked for is written


@runs
def test_path_reads_views_and_steps_in_place():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator).T[:, :4]  # samples that are not dense
    velocity = torch.randn(1, 4, generator=generator).expand(3, 4)
    t, r = torch.tensor([0.9, 0.5, 0.7]), torch.tensor([0.1, 0.5, 0.2])
    expected = rcgm_kernels.advance(x.double(), velocity.double(), t, r, backend="reference")
    given = [value.to(DEVICE) for value in (x, velocity, t, r)]
    out = rcgm_kernels.advance(*given, out=given[0], backend="triton")
    assert out is given[0]
    assert_gradient_close(out.cpu(), expected)


@runs
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999, 1.0])
def test_ema_of_a_model(decay: float, copied: bool):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (0,), (70, 70), (8192,), (1,), (9000,), (2, 50), (6,)]
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16, torch.bfloat16] + 2 * [
        torch.float64
    ]
    averages = [torch.randn(shape, generator=generator) for shape in shapes]
    averages[-1] = averages[-1].double()
    params = [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    here = [[tensor.to(DEVICE, copy=True) for tensor in tensors] for tensors in (averages, params)]
    here[0][5] = torch.zeros(9001, device=DEVICE)[1:].copy_(averages[5])  # not at an address that 16 divides
    copies = [torch.full(shape, torch.nan, dtype=torch.bfloat16, device=DEVICE) for shape in shapes]
    rcgm_kernels.ema_update_(*here, decay, copies if copied else None, backend="triton")
    for index, (average, param) in enumerate(zip(averages, params, strict=True)):
        expected = decay * average.double() + (1 - decay) * param.double()
        tolerance = 1e-14 if average.dtype == torch.float64 else 1e-6  # two units of the largest, about 4
        torch.testing.assert_close(here[0][index].cpu().double(), expected, rtol=0, atol=tolerance)
        if copied:
            # The compiled kernel rounds to the nearest; Triton's interpreter drops the bits that bfloat16 lacks.
            step = 0.0 if DEVICE.type == "cuda" else 2**-7
            torch.testing.assert_close(
                copies[index].float(), here[0][index].float().bfloat16().float(), rtol=step, atol=0
            )
        else:
            assert copies[index].isnan().all()
        if decay in (0.0, 1.0):
            assert torch.equal(here[0][index].cpu(), (average if decay else param.to(average.dtype)))


@runs
def test_ema_tables_are_made_once():
    from rcgm_kernels.backends.triton import ema

    averages, params = ([torch.zeros(n, device=DEVICE) for n in (3, 5000)] for _ in range(2))
    rcgm_kernels.ema_update_(averages, params, 0.9, backend="triton")
    before = ema._table.cache_info()
    for decay in (0.9, 0.99, 0.999):
        rcgm_kernels.ema_update_(averages, params, decay, backend="triton")
    after = ema._table.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (3, 0)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("upstream", [1.0, 3.0, torch.nan, "per sample"])
@pytest.mark.parametrize("shape", [(3, 5000), (130, 2)])
def test_upstream_gradient(upstream, shape: tuple[int, int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    by = torch.randn(shape[0], generator=generator) if upstream == "per sample" else torch.tensor(upstream)
    if by.ndim:
        by[1] = 4.0  # after the divisor: a sample that stays as it is, beside others that do not
    scaled = gradient.to(DEVICE, copy=True)
    scales = torch.full(shape[:1], 4.0)
    backend.scale_gradient_(scaled, by.to(DEVICE), scales.to(DEVICE))
    factor = (by / scales).expand(shape[0])[:, None]
    torch.testing.assert_close(scaled.cpu(), (gradient.float() * factor).to(dtype), rtol=0, atol=0, equal_nan=True)


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
        "_whole_samples", "_sums", "_finish", "_gradient_of_sums", "_whole_channels", "_sums_of_channels",
        "_gradient_of_channels", "_interpolate", "_advance", "_scale", "_ema"
    }  # fmt: skip
    narrow = [kernel for kernel in kernels if kernel["load"] < 128]
    assert {kernel["kernel"] for kernel in narrow} == {"_finish"}  # which reads a few sums
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
