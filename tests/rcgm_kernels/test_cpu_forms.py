"""The forms of the CPU loss: packs of small samples, tiles, samples that are kept, and samples that are read twice."""

from __future__ import annotations

import math

import pytest
import torch

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss
from tests.support.implementations import cpu_implementations, running, threads

METRICS = [
    {},
    {"metric": "pseudo_huber"},
    {"metric": Metric("barron", alpha=0.0)},
    {"metric": Metric(cosine=1.0, cosine_dim="sample")},
    {"adaptive": AdaptiveWeight(1.0, 0.01)},
    {"normalize": 0.1},
]
MOST_KEPT = 2**18
"""Elements of the largest sample whose residual a thread keeps."""


def call(batch: int, size: int, dtype: torch.dtype, order: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    states = torch.randn(order + 2, batch, size, generator=generator).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.8 + 0.15
    times = torch.cat([t[None], (t - 0.1) * torch.linspace(1, 0, order + 1, dtype=torch.float64)[:, None]])
    weight = torch.rand(batch, generator=generator, dtype=torch.float64)
    return {"pred": states[0], "segments": states[1:-1], "velocity": states[-1], "times": times, "weight": weight}


def run(
    inputs: dict[str, torch.Tensor], backend: str, options: dict, upstream: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    pred = inputs["pred"].detach().clone().requires_grad_()
    rest = {name: value for name, value in inputs.items() if name != "pred"}
    loss = fused_loss(pred, **rest, reduction="none", backend=backend, **options)
    (upstream * loss.sum()).backward()
    return loss.detach(), pred.grad


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", METRICS, ids=str)
def test_every_small_size_agrees_with_the_formula(implementation, dtype, options):
    # Coefficients of up to t/dt = 10 multiply differences of up to 10, with ten roundings in float32; the adaptive
    # weight and the normalisation multiply that error by up to 10.
    bound = 10 * 10 * 10 * 10 * torch.finfo(torch.float32).eps
    for size in (1, 2, 3, 4, 5, 8, 31, 32, 33):
        for batch in (63, 64, 130):
            inputs = call(batch, size, dtype)
            exact = {name: value.double() for name, value in inputs.items()}
            expected_loss, expected_gradient = run(exact, "reference", options)
            with running(implementation) as backend:
                loss, gradient = run(inputs, backend, options)
            torch.testing.assert_close(loss.double(), expected_loss, rtol=bound, atol=bound)
            error = (gradient.double() - expected_gradient).abs().max() / expected_gradient.abs().max()
            assert error <= torch.finfo(dtype).eps + bound, (size, batch)


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("size", [2, 32, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_does_not_depend_on_the_samples_beside_it(implementation, size, dtype):
    inputs = call(128, size, dtype)
    alone = {name: value[..., :64] if name == "times" else value for name, value in inputs.items()}
    alone |= {name: inputs[name][:64] for name in ("pred", "velocity", "weight")}
    alone["segments"] = inputs["segments"][:, :64]
    with running(implementation) as backend:
        whole, part = run(inputs, backend, {}), run(alone, backend, {})
    assert torch.equal(whole[0][:64], part[0])
    assert torch.equal(whole[1][:64], part[1])


@pytest.mark.parametrize("size", [2, 5000, 40_000])
@pytest.mark.parametrize("options", METRICS[:4], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(size, options):
    inputs, outcomes = call(200 if size == 2 else 3, size, torch.bfloat16), []
    for count in (1, 2, 3):
        with threads(count):
            outcomes.append(run(inputs, "cpu", options))
    for loss, gradient in outcomes[1:]:
        assert torch.equal(loss, outcomes[0][0])
        assert torch.equal(gradient, outcomes[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_kept_and_what_is_read_twice_agree(dtype):
    # Zeros make the same sample longer than what is kept.
    kept, longer = call(1, MOST_KEPT, dtype, order=1), call(1, MOST_KEPT, dtype, order=1)
    for name in ("pred", "velocity", "segments"):
        zeros = torch.zeros(*longer[name].shape[:-1], 2, dtype=dtype)
        longer[name] = torch.cat([longer[name], zeros], -1)
    options = {"metric": "pseudo_huber", "reduce": "sum", "clip": math.inf}
    (loss, gradient), (other_loss, other_gradient) = run(kept, "cpu", options), run(longer, "cpu", options)
    torch.testing.assert_close(loss, other_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, other_gradient[:, :-2], rtol=2 * torch.finfo(dtype).eps, atol=0)


TILES = [(2, 3, 63), (2, 5, 1025), (3, 16, 512), (2, 257, 64), (2, 300, 49), (1, 4, 9000), (1, 70, 4097), (1, 5000, 65)]
"""Samples, channels and positions: even and odd rows, several tiles, and samples and tiles too large to be kept."""


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["l2", "pseudo_huber"])
def test_tiles_of_every_form_agree_with_the_formula(implementation, dtype, name):
    # As for small sizes, but that a cosine divides by the lengths of vectors of few elements.
    bound = 10 * 10 * 10 * 10 * torch.finfo(torch.float32).eps
    options = {"metric": Metric(name, cosine=1.0)}
    for batch, channels, positions in TILES:
        inputs = call(batch, channels * positions, dtype, order=1)
        for key in ("pred", "velocity", "segments"):
            inputs[key] = inputs[key].unflatten(-1, (channels, positions))
        exact = {key: value.double() for key, value in inputs.items()}
        upstream = float(channels * positions)  # so that the gradient is not too small for float16
        expected_loss, expected_gradient = run(exact, "reference", options, upstream)
        with running(implementation) as backend:
            loss, gradient = run(inputs, backend, options, upstream)
        torch.testing.assert_close(loss.double(), expected_loss, rtol=bound, atol=bound)
        error = (gradient.double() - expected_gradient).abs().max() / expected_gradient.abs().max()
        assert error <= torch.finfo(dtype).eps + bound, (batch, channels, positions)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_unordered_knots_of_a_small_sample_are_found(implementation):
    inputs = call(200, 2, torch.float32)
    inputs["times"][1, 150] = 2.0
    inputs["times"][2, 70] = math.nan
    inputs["weight"][70] = 0
    with running(implementation) as backend, pytest.raises(ValueError, match="sample 150 has"):
        run(inputs, backend, {})
