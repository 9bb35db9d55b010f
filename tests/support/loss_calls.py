"""A call of a fused loss, and how large its roundings may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcgm_kernels import fused_loss
from rcgm_kernels.layout import sample_size


@dataclass(frozen=True)
class LossCall:
    """One call of a fused loss."""

    function: Callable[..., Tensor]
    pred: Tensor
    arguments: dict[str, Any]

    def run(self, backend: str) -> tuple[Tensor, Tensor]:
        """The loss, and the gradient of its sum."""
        pred = self.pred.detach().requires_grad_()
        loss = self.function(pred, **self.arguments, backend=backend)
        loss.sum().backward()
        return loss.detach(), pred.grad

    def states(self) -> list[Tensor]:
        """All tensors of the shape of the prediction."""
        given = self.arguments
        others = [*given["segments"], given["velocity"], given["base"]] if "segments" in given else [*given["terms"]]
        return [self.pred, *(tensor for tensor in others if tensor is not None)]

    def combination(self) -> tuple[Tensor, Tensor]:
        """Tensors ``[K, B, ...]`` and coefficients ``[K, B]`` of the residual, in float64, by math.md section 2."""
        given = self.arguments
        if self.function is fused_loss:
            t = given["times"].double()
            base = self.pred if given["base"] is None else given["base"]
            coeffs = torch.cat([(t[:1] - t[-1:]), t[2:] - t[1:-1]]) / (t[0] - t[1])
            flow_matching = torch.zeros_like(coeffs)
            flow_matching[0] = 1
            coeffs = torch.where(t[1] == t[-1], flow_matching, coeffs)
            tensors = [base, *given["segments"], given["velocity"]]
            coeffs = torch.cat([coeffs, torch.full_like(coeffs[:1], -1)])
        else:
            first = torch.as_tensor(given["pred_coeff"], dtype=torch.float64).expand(1, self.pred.shape[0])
            tensors, coeffs = [self.pred, *given["terms"]], torch.cat([first, given["coeffs"].double()])
        return torch.stack([tensor.detach().double() for tensor in tensors]), coeffs

    def rounding(self) -> Tensor:
        """The relative error ``[B]`` that float32 may make in a loss: 1e-5, or more where the residual cancels.

        What counts is not the size of the tensors but that of their differences from the first one.
        """
        tensors, coeffs = self.combination()
        tensors = tensors.reshape(*coeffs.shape, sample_size(self.pred))
        used = torch.where(coeffs[..., None] != 0, tensors, 0)
        first, coeffs = used[0], coeffs[..., None]
        summed = coeffs.sum(0).abs() * first.abs() + (coeffs.abs() * (used - first).abs()).sum(0)
        residual = (coeffs * used).sum(0)
        share = summed.square().sum(1).sqrt() / residual.square().sum(1).sqrt()
        return (share * 2**-22).nan_to_num(nan=0, posinf=0).clamp(min=1e-5)

    def upcast(self) -> LossCall:
        """The same numbers in float64."""
        return replace(self, pred=_upcast(self.pred), arguments={k: _upcast(v) for k, v in self.arguments.items()})

    def to(self, device: torch.device | str) -> LossCall:
        """The same call on another device; strides of views are lost."""
        return replace(
            self, pred=self.pred.to(device), arguments={k: _moved(v, device) for k, v in self.arguments.items()}
        )

    def with_options(self, **options: Any) -> LossCall:
        return replace(self, arguments={**self.arguments, **options})


def _upcast(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double()
    return [_upcast(item) for item in value] if isinstance(value, list) else value


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_moved(item, device) for item in value] if isinstance(value, list) else value
