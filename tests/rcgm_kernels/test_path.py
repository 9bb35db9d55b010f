"""Points of the path and steps along it: values, memory layouts, bad samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rcgm_kernels import advance, interpolate
from rcgm_kernels.layout import STORAGE_DTYPES, batched
from tests.support.cases import HALVES, LAYOUTS, SAMPLE_SHAPES, every, laid_out
from tests.support.closeness import spacing
from tests.support.implementations import all_implementations, cpu_implementations, running, threads

DTYPES = st.sampled_from(STORAGE_DTYPES)


@dataclass(frozen=True)
class Case:
    """Two states of one shape, and two sets of scalars ``[P, B]``."""

    seed: int
    batch: int
    sample: tuple[int, ...]
    points: int
    dtypes: tuple[torch.dtype, torch.dtype]
    layouts: tuple[str, str]
    scalar_dtype: torch.dtype

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, *self.sample)
        x, z = (
            laid_out(torch.randn(shape, generator=generator).to(dtype), layout)
            for dtype, layout in zip(self.dtypes, self.layouts, strict=True)
        )
        return x, z, *torch.rand(2, self.points, self.batch, generator=generator).to(self.scalar_dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sample = draw(st.sampled_from(SAMPLE_SHAPES))
    return Case(
        seed=draw(st.integers(0, 1000)),
        batch=draw(st.sampled_from([0, 1, 2, 5])),
        sample=sample,
        points=draw(st.sampled_from([1, 2, 3, 32 if math.prod(sample) < 100 else 4])),
        dtypes=(draw(DTYPES), draw(DTYPES)),
        layouts=(draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))),
        scalar_dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )


def assert_rounded(actual: Tensor, exact: Tensor, summands: Tensor, double: bool = False) -> None:
    """``actual`` is ``exact`` but for the arithmetic on its summands and one rounding to its dtype.

    float64 becomes float16 or bfloat16 by way of float32, in torch as here.
    """
    arithmetic = summands * (2**-50 if double and actual.dtype not in HALVES else 2**-22)
    wrong = ~((actual.double() - exact).abs() <= arithmetic + spacing(exact, actual.dtype) / 2)
    assert not wrong.any(), f"{actual[wrong][0].item()} instead of {exact[wrong][0].item()}"


@given(cases(), st.one_of(st.none(), DTYPES))
@every(150)
def test_points_are_rounded_once(case, dtype):
    x, z, alpha, gamma = case.tensors()
    shape = (*alpha.shape, *[1] * (x.ndim - 1))
    parts = alpha.double().reshape(shape) * z.double(), gamma.double().reshape(shape) * x.double()
    for implementation in cpu_implementations():
        with running(implementation) as backend:
            points = interpolate(x, z, alpha, gamma, dtype=dtype, backend=backend)
        assert points.dtype == (dtype or x.dtype)
        assert points.shape == (*alpha.shape, *x.shape[1:])
        assert points.is_contiguous()
        assert_rounded(points, sum(parts), sum(part.abs() for part in parts), torch.float64 in case.dtypes)


@given(cases(), DTYPES, st.sampled_from(["new", "slice", "spaced", "permuted", "self"]))
@every(150)
def test_steps_are_rounded_once(case, dtype, target):
    x, velocity, times, _ = case.tensors()
    t, r = times[0], times[-1] / 2
    exact = x.double() - batched(t.double() - r.double(), x) * velocity.double()
    for implementation in cpu_implementations():
        source = x.clone()
        out = source if target == "self" else None
        if target not in ("self", "new"):
            out = laid_out(torch.full(x.shape, math.nan, dtype=dtype), target)
        with running(implementation) as backend:
            result = advance(source, velocity, t, r, out=out, backend=backend)
        assert out is None or result is out
        assert result.dtype == (x.dtype if target in ("new", "self") else dtype)
        assert_rounded(result, exact, x.double().abs() + velocity.double().abs(), torch.float64 in case.dtypes)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_a_step_writes_into_its_slice_of_the_next_wave_and_nowhere_else(implementation):
    wave = torch.full((6, 1001), 7.0, dtype=torch.bfloat16)
    x = torch.ones(2, 1001)
    with running(implementation) as backend:
        advance(x, x, torch.full((2,), 0.75), torch.full((2,), 0.5), out=wave[2:4], backend=backend)
    assert (wave[2:4] == 0.75).all()
    assert (wave[:2] == 7).all()
    assert (wave[4:] == 7).all()


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_huge_states(implementation):
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 1, 3_000_001, generator=generator).bfloat16()
    alpha = torch.tensor([[0.3], [1.0]])
    with running(implementation) as backend:
        point, velocity = interpolate(x, z, alpha, 1 - 2 * alpha, backend=backend)
        stepped = advance(x, z, alpha[0], alpha[0] / 2, backend=backend)
    assert_rounded(point, 0.3 * z.double() + 0.4 * x.double(), z.double().abs() + x.double().abs())
    assert_rounded(velocity, z.double() - x.double(), z.double().abs() + x.double().abs())
    assert_rounded(stepped, x.double() - 0.15 * z.double(), z.double().abs() + x.double().abs())


@pytest.mark.parametrize("implementation", cpu_implementations()[1:])
def test_results_do_not_depend_on_the_thread_count(implementation):
    x, z = torch.randn(2, 3, 50_001, generator=torch.Generator().manual_seed(0))
    times = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2, 3):
        with threads(count), running(implementation) as backend:
            results.append((interpolate(x, z, times, times), advance(x, z, *times, backend=backend)))
    for points, stepped in results[1:]:
        assert torch.equal(points, results[0][0])
        assert torch.equal(stepped, results[0][1])


@pytest.mark.parametrize("implementation", all_implementations())
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layout", ["dense", "slice", "spaced", "permuted"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which the interpreter computes with
def test_a_bad_sample_changes_no_other(implementation, value, layout):
    x, z = torch.randn(2, 3, 7, 100, generator=torch.Generator().manual_seed(0))
    times = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))

    def results(x: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = laid_out(x, layout)
        out = laid_out(torch.zeros(3, 7, 100), layout)
        return (
            interpolate(x, laid_out(z, layout), times, times, backend=backend),
            advance(x, z, *times, out=out, backend=backend),
            advance(x, z, *times, out=x, backend=backend),
        )

    with running(implementation) as backend:
        points, *steps = results(x.clone(), times)
        bad, bad_times = x.clone(), times.clone()
        bad[1], bad_times[0, 1] = value, value
        again, *stepped = results(bad, bad_times)
    assert torch.equal(again[:, ::2], points[:, ::2])
    assert not again[:, 1].isfinite().any()
    for before, after in zip(steps, stepped, strict=True):
        assert torch.equal(after[::2], before[::2])
        assert not after[1].isfinite().any()


def test_a_point_and_its_velocity():
    x, z = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.rand(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ones = torch.ones_like(t)
    point, velocity = interpolate(x, z, torch.stack([t, ones]), torch.stack([1 - t, -ones])).unbind(0)
    torch.testing.assert_close(point, t[:, None, None] * z + (1 - t)[:, None, None] * x)
    torch.testing.assert_close(velocity, z - x)
    torch.testing.assert_close(advance(point, velocity, t, torch.zeros(4)), x)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_numbers_may_be_given_in_any_form(implementation):
    x, z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.25, 0.5, 0.75])
    with running(implementation) as backend:
        ones = torch.ones(3)
        wanted = interpolate(x, z, torch.stack([t, ones]), torch.stack([1 - t, -ones]), backend=backend)
        halves = t[:, None, None].bfloat16()  # quarters, which bfloat16 holds
        for alpha, gamma in (
            ([t, 1.0], [1 - t, -1]),
            ([halves, torch.tensor(1.0)], (1 - t.half(), -1.0)),
            (torch.stack([t, ones])[..., None, None], [1 - t.double(), -1.0]),
        ):
            assert torch.equal(interpolate(x, z, alpha, gamma, backend=backend), wanted)
        stepped = advance(x, z, t, torch.full((3,), 0.25), backend=backend)
        for time, end in (
            (halves, 0.25),
            (t.half()[:, None], torch.tensor(0.25)),
            (t.double(), torch.full((3, 1), 0.25)),
        ):
            assert torch.equal(advance(x, z, time, end, backend=backend), stepped)
        assert torch.equal(advance(x, z, 0.5, 0, backend=backend), x - 0.5 * z)


def test_numbers_of_python_are_not_rounded():
    x, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert interpolate(x, zero, [0.0], [0.1]).item() == 0.1
    assert advance(zero, x, 0.1, 0).item() == -0.1


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("which", ["x", "velocity"])
@pytest.mark.parametrize("layout", ["dense", "slice", "spaced", "permuted"])
def test_a_step_may_be_written_over_what_it_reads(implementation, which, layout):
    generator = torch.Generator().manual_seed(0)
    x, velocity = (laid_out(torch.randn(3, 5, 700, generator=generator), layout) for _ in range(2))
    t, r = torch.tensor([0.9, 0.5, 0.1]), torch.zeros(3)
    out = x if which == "x" else velocity
    with running(implementation) as backend:
        wanted = advance(x, velocity, t, r, backend=backend)
        assert advance(x, velocity, t, r, out=out.view_as(out), backend=backend).data_ptr() == out.data_ptr()
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("direct", [False, True])
def test_an_output_that_overlaps_its_inputs_in_part_is_refused(implementation, direct):
    memory = torch.arange(48.0)
    x, square, t = memory[:32].view(4, 8), memory[:16].view(4, 4), torch.full((4,), 0.5)

    def refused(backend: str, name: str, out: Tensor, x: Tensor, velocity: Tensor, t: Tensor) -> None:
        step = torch.ops.rcgm_kernels.advance_ if direct else advance
        with pytest.raises(ValueError, match=f"out must be {name} itself or share no memory with it"):
            step(out=out, x=x, velocity=velocity, t=t, r=t, backend=backend)

    with running(implementation) as backend:
        refused(backend, "x", memory[1:33].view(4, 8), x, torch.ones(4, 8), t)
        refused(backend, "velocity", memory[8:40].view(4, 8), torch.ones(4, 8), x, t)
        refused(backend, "x", square.T, square, torch.ones(4, 4), t)
        refused(backend, "x", square[:, :2], memory[:8].view(4, 2), torch.ones(4, 2), t)
        refused(backend, "t", memory[:4].view(4, 1), torch.ones(4, 1), torch.ones(4, 1), memory[2:6])
        # What lies between one another, as the parts of a wave do, is apart.
        wave = torch.arange(64.0).view(4, 2, 8)
        wanted = wave[:, 0] - 0.5 * wave[:, 1]
        advance(wave[:, 0], wave[:, 1], t, torch.zeros(4), out=wave[:, 1], backend=backend)
        assert torch.equal(wave[:, 1], wanted)
        advance(wave[:, 0], wanted, t, t, out=wave[:, 1], backend=backend)
        assert torch.equal(wave[:, 1], wave[:, 0])
    assert torch.equal(memory, torch.arange(48.0))
