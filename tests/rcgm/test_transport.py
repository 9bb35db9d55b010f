import math

import pytest
import torch

from rcgm.transport import Linear, Transport

LINEAR = Linear()


class Trigonometric(Transport):
    """A transport with curved coefficients, as a user would add one."""

    def alpha(self, t):
        return torch.sin(math.pi / 2 * t)

    def gamma(self, t):
        return torch.cos(math.pi / 2 * t)

    def alpha_slope(self, t):
        return math.pi / 2 * torch.cos(math.pi / 2 * t)

    def gamma_slope(self, t):
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)


def batch(dtype=torch.float64, shape=(6, 2, 3)):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return x, z, torch.tensor([0.0, 1.0, 0.5, 1e-3, 0.999, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("transport", [LINEAR, Trigonometric()], ids=["linear", "trigonometric"])
def test_ends_are_data_and_noise(transport):
    x, z, _ = batch()
    points = transport.points(x, z, torch.tensor([[0.0] * 6, [1.0] * 6], dtype=torch.float64))
    torch.testing.assert_close(points, torch.stack([x, z]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("transport", [LINEAR, Trigonometric()], ids=["linear", "trigonometric"])
def test_slopes_are_the_derivatives(transport):
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    for function, slope in ((transport.alpha, transport.alpha_slope), (transport.gamma, transport.gamma_slope)):
        (derivative,) = torch.autograd.grad(function(t).sum(), t)
        torch.testing.assert_close(slope(t), derivative)


@pytest.mark.parametrize("transport", [LINEAR, Trigonometric()], ids=["linear", "trigonometric"])
def test_velocity_is_the_derivative_of_the_point(transport):
    x, z, t = batch()
    point, velocity = transport.point_and_velocity(x, z, t)
    step = 1e-6
    ahead, behind = transport.points(x, z, torch.stack([t + step, t - step])).unbind(0)
    torch.testing.assert_close(velocity, (ahead - behind) / (2 * step), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(point, (ahead + behind) / 2, rtol=1e-10, atol=1e-10)


def test_linear_is_the_straight_line():
    x, z, t = batch()
    point, velocity = LINEAR.point_and_velocity(x, z, t)
    column = t[:, None, None]
    torch.testing.assert_close(point, column * z + (1 - column) * x, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(velocity, z - x, rtol=0, atol=0)
    assert torch.equal(LINEAR.alpha_slope(t), torch.ones_like(t))
    assert torch.equal(LINEAR.gamma_slope(t), -torch.ones_like(t))


def test_points_at_several_times_are_those_at_each():
    x, z, t = batch()
    times = torch.stack([t, t / 2, 1 - t])
    points = LINEAR.points(x, z, times)
    assert points.shape == (3, *x.shape)
    for index in range(3):
        torch.testing.assert_close(points[index], LINEAR.point_and_velocity(x, z, times[index])[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_dtype_of_the_data(dtype):
    x, z, t = batch(dtype)
    point, velocity = LINEAR.point_and_velocity(x, z, t.float())
    assert point.dtype == velocity.dtype == dtype
    column = t[:, None, None]
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        point.double(), column * z.double() + (1 - column) * x.double(), rtol=tolerance, atol=tolerance
    )


def test_names_what_does_not_fit():
    x, z, t = batch()
    with pytest.raises(ValueError, match=r"z must have the shape \[6, 2, 3\], got \[6, 2\]"):
        LINEAR.point_and_velocity(x, z[..., 0], t)
    with pytest.raises(ValueError, match=r"must have the shape \[P, 6\]"):
        LINEAR.points(x, z, t[None, :5])
    with pytest.raises(TypeError, match="abstract"):
        Transport()
