"""Residuals and gradients of objectives, read from a call of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rcgm.objectives import Objective, ObjectiveOutput, Times
from tests.support.rounding import assert_rounded


def read(
    objective: Objective,
    network: Callable[..., Tensor],
    x: Tensor,
    z: Tensor,
    times: Times,
    labels: Tensor | None = None,
    **networks: object,
) -> tuple[ObjectiveOutput, Tensor]:
    """The output of a call and the residual, read from the gradient ``2 R / (D B)`` of the L2 loss."""
    predictions = []

    def student(*point: Tensor) -> Tensor:
        answer = network(*point)
        if torch.is_grad_enabled():
            answer = answer.detach().requires_grad_()
            predictions.append(answer)
        return answer

    out = objective(student, x, labels, noise=z, times=times, **networks)
    out.loss.backward()
    (prediction,) = predictions
    return out, prediction.grad * prediction.numel() / 2


def gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    """Of ``loss`` to the parameters of ``network``; 0 to those that it does not depend on."""
    parameters = list(network.parameters())
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True, retain_graph=True))


def assert_same_loss(ours: Tensor, theirs: Tensor, network: nn.Module, *, divided_by: float = 1.0) -> None:
    """Assert that two losses and their gradients to ``network`` differ by rounding alone (see ``assert_rounded``)."""
    assert_rounded(ours, theirs, divided_by=divided_by)
    found, expected = gradients(ours, network), gradients(theirs, network)
    assert max(gradient.abs().max() for gradient in expected) > 1e-4  # or the comparison would say nothing
    for one, other in zip(found, expected, strict=True):
        assert_rounded(one, other, divided_by=divided_by)


def edge_cases(edges: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data, noise and times ``t``, ``r`` in float32: each edge with itself, with 0 and with a time just below it."""
    ends = torch.tensor(edges)
    t, r = torch.cat([ends, ends, ends]), torch.cat([ends, torch.zeros_like(ends), 0.999999 * ends])
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn((len(t), 3), generator=generator) for _ in range(2))
    return x, z, t, r
