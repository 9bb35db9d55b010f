"""The tensors of a fused loss, checked, as an operation and a backend take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rcgm_kernels.layout import dense_samples


class LossInputs(NamedTuple):
    """The tensors of a fused loss; :class:`rcgm_kernels.options.LossOptions` is the rest.

    Args:
        pred: the prediction, ``[B, ...]``.
        terms: K tensors of the shape of ``pred``: with knots, the base (if it is not ``pred``), the N segments and the
            velocity.
        scalars: coefficients of the terms, ``[K, B]``, or knots, ``[N+2, B]``; float32 or float64, as all that follow.
        pred_coeff: coefficient of ``pred``, ``[B]``; None for 1.
        scale: what the clamped residual is multiplied by, ``[B]``; None for 1.
        weight: weight of each sample, ``[B]``; None for 1.
        normalize_scale: what the normalised residual is multiplied by, ``[B]``; None for 1.
    """

    pred: Tensor
    terms: list[Tensor]
    scalars: Tensor
    pred_coeff: Tensor | None
    scale: Tensor | None
    weight: Tensor | None
    normalize_scale: Tensor | None

    def with_dense_samples(self) -> LossInputs:
        """The same inputs, with copies of the tensors ``[B, ...]`` whose samples are not contiguous; no graph."""
        return self._replace(
            pred=dense_samples(self.pred.detach()), terms=[dense_samples(term.detach()) for term in self.terms]
        )

    def per_sample(self) -> dict[str, Tensor]:
        """The numbers of samples that are given, by name."""
        fields = zip(self._fields[2:], self[2:], strict=True)
        return {name: values for name, values in fields if values is not None}
