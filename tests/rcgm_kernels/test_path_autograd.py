"""Derivatives of points of the path, and steps, which have none."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from rcgm_kernels import advance, interpolate
from tests.support.implementations import cpu_implementations, poisoned_memory, running


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_gradients_of_points(implementation):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(2, 3, 2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    alpha, gamma = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
    with running(implementation) as backend:
        function = lambda x, z: interpolate(x, z, alpha, gamma, backend=backend)  # noqa: E731
        torch.autograd.gradcheck(function, (x, z))
        torch.autograd.gradgradcheck(function, (x, z))


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_forward_mode_derivatives_of_points(implementation):
    generator = torch.Generator().manual_seed(0)
    x, z, dx, dz = torch.randn(4, 3, 5, generator=generator)
    t = torch.rand(3, generator=generator)
    with running(implementation) as backend:
        function = lambda x, z: interpolate(x, z, [t, 1.0], [1 - t, -1.0], backend=backend)  # noqa: E731
        wanted = function(dx, dz)
        torch.testing.assert_close(torch.func.jvp(function, (x, z), (dx, dz))[1], wanted)
        for needs_gradient in (False, True):
            x.requires_grad_(needs_gradient)
            with forward_ad.dual_level():
                dual = function(forward_ad.make_dual(x, dx), forward_ad.make_dual(z, dz))
                torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, wanted)
                half = function(forward_ad.make_dual(x, dx), z)
                torch.testing.assert_close(forward_ad.unpack_dual(half).tangent, function(dx, torch.zeros_like(z)))
        x = x.detach().double()
        torch.autograd.gradcheck(
            lambda x: function(x, z.double()), (x.requires_grad_(),), check_forward_ad=True, check_batched_grad=True
        )


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_transforms_of_points_and_steps(implementation):
    generator = torch.Generator().manual_seed(0)
    xs, zs = torch.randn(2, 4, 3, 5, generator=generator)
    ts = torch.rand(4, 3, generator=generator)
    with running(implementation) as backend:
        function = lambda x, z, t: interpolate(x, z, [t, 1.0], [1 - t, -1.0], backend=backend)  # noqa: E731
        step = lambda x, z, t: advance(x, z, t, 0.0, backend=backend)  # noqa: E731
        for each in (function, step):
            wanted = torch.stack([each(*entry) for entry in zip(xs, zs, ts, strict=True)])
            assert torch.equal(torch.func.vmap(each)(xs, zs, ts), wanted)
            shared = torch.stack([each(xs[0], z, ts[0]) for z in zs])
            assert torch.equal(torch.func.vmap(lambda z: each(xs[0], z, ts[0]))(zs), shared)  # noqa: B023
        gradient = torch.func.grad(lambda x: function(x, zs[0], ts[0]).square().sum())(xs[0])
        points = function(xs[0], zs[0], ts[0])
        torch.testing.assert_close(gradient, 2 * ((1 - ts[0])[:, None] * points[0] - points[1]))
        each = torch.func.vmap(torch.func.grad(lambda x, z, t: function(x, z, t).square().sum()))(xs, zs, ts)
        torch.testing.assert_close(each[0], gradient)
        with pytest.raises(RuntimeError, match="out must be None inside of"):
            torch.func.vmap(lambda x: advance(x, zs[0], ts[0], ts[0], out=torch.zeros(3, 5)))(xs)


def test_a_step_takes_no_dual_numbers():
    x, t = torch.ones(2, 3), torch.ones(2)
    with pytest.raises(RuntimeError, match=r"advance carries no derivative.*use interpolate\(x, velocity"):
        torch.func.jvp(lambda x: advance(x, x, t, t), (x,), (x,))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        with pytest.raises(RuntimeError, match="advance carries no derivative"):
            advance(x, dual, t, t)
        with pytest.raises(RuntimeError, match="advance carries no derivative"):
            torch.ops.rcgm_kernels.advance_(x.clone(), dual, x, t, t, "")
        with pytest.raises(ValueError, match="t must not be a dual number"):
            advance(x, x, forward_ad.make_dual(t, t), t)
        assert forward_ad.unpack_dual(advance(x, dual.detach(), t, t)).tangent is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_points_come_in_the_dtype_of_the_state(dtype):
    x = torch.randn(3, 4).to(dtype).requires_grad_()
    z = torch.randn(3, 4).requires_grad_()
    alpha = torch.tensor([[0.25, 0.5, 0.75]])
    interpolate(x, z, alpha, 1 - alpha, dtype=torch.float32).sum().backward()
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad.float(), (1 - alpha)[0, :, None].expand(3, 4))
    assert torch.equal(z.grad, alpha[0, :, None].expand(3, 4))


def test_steps_carry_no_gradient():
    x, t = torch.randn(2, 3, requires_grad=True), torch.tensor([0.5, 0.5])
    assert not advance(x, x, t, t).requires_grad
    with poisoned_memory():
        assert torch.equal(advance(x, x, t, t), x)


def test_a_state_overwritten_after_a_graph_saved_it_is_an_error():
    state, t = torch.ones(2, 3), torch.ones(2)
    weight = torch.ones(2, 3, requires_grad=True)
    loss = (weight * state).sum()
    advance(state, state, t, t / 2, out=state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
