import pytest
import torch

from rcgm.models.precision import FullPrecisionLinear, full_precision


def layer(dtype=torch.float32, bias=True):
    result = FullPrecisionLinear(24, 16, bias=bias)
    generator = torch.Generator().manual_seed(0)
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return result.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_of_each_dtype(dtype, expected):
    assert full_precision(dtype) == expected
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    linear = layer(dtype)
    result = linear(x)
    assert result.dtype == expected
    torch.testing.assert_close(result, x.to(expected) @ linear.weight.to(expected).T + linear.bias.to(expected))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(autocast, bias):
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    linear = layer(bias=bias)
    expected = linear(x)
    with torch.autocast("cpu", dtype=autocast):
        torch.testing.assert_close(linear(x), expected, rtol=0, atol=0)
        assert torch.nn.functional.linear(x, linear.weight).dtype == autocast  # and it is on again afterwards


def test_gradients_reach_weights_in_half_precision():
    linear = layer(torch.bfloat16)
    linear(torch.ones(3, 24)).sum().backward()
    assert linear.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(linear.weight.grad, torch.full((16, 24), 3.0, dtype=torch.bfloat16))


def test_runs_on_the_meta_device():
    assert layer().to("meta")(torch.empty(3, 24, device="meta")).shape == (3, 16)
