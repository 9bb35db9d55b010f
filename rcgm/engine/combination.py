"""Linear combinations of tensors with per-sample coefficients, written as the papers write them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Scalar = Tensor | float
"""A number, or one for each sample: ``[B]``."""


@dataclass(frozen=True, eq=False)
class Combination:
    """``pred_coeff * prediction + sum_k coeffs[k] * terms[k]``, which the fused loss evaluates in one pass over memory.

    Combinations can be added, subtracted and multiplied by scalars (numbers, or tensors ``[B]``). None of that touches
    the tensors ``[B, ...]``. ``PREDICTION`` is the student's prediction at the point of the step, and
    ``term(tensor)`` a tensor; ``PREDICTION - term(velocity)`` is flow matching.

    Args:
        terms: tensors ``[B, ...]``.
        coeffs: a number or a tensor ``[B]`` for each.
        pred_coeff: coefficient of the student's prediction, a number or ``[B]``.
    """

    terms: tuple[Tensor, ...] = ()
    coeffs: tuple[Scalar, ...] = ()
    pred_coeff: Scalar = 0.0

    def __add__(self, other: Combination) -> Combination:
        if not isinstance(other, Combination):
            return NotImplemented
        terms, coeffs = list(self.terms), list(self.coeffs)
        for tensor, coeff in zip(other.terms, other.coeffs, strict=True):
            known = next((index for index, mine in enumerate(terms) if mine is tensor), None)
            if known is None:
                terms.append(tensor)
                coeffs.append(coeff)
            else:
                coeffs[known] = coeffs[known] + coeff
        return Combination(tuple(terms), tuple(coeffs), self.pred_coeff + other.pred_coeff)

    def __mul__(self, factor: Scalar) -> Combination:
        if not isinstance(factor, (Tensor, int, float)):
            return NotImplemented
        without_pred = not isinstance(self.pred_coeff, Tensor) and self.pred_coeff == 0
        pred_coeff = 0.0 if without_pred else self.pred_coeff * factor
        return Combination(self.terms, tuple(coeff * factor for coeff in self.coeffs), pred_coeff)

    __rmul__ = __mul__

    def __neg__(self) -> Combination:
        return self * -1.0

    def __sub__(self, other: Combination) -> Combination:
        return self + (-other) if isinstance(other, Combination) else NotImplemented

    def stacked(self, like: Tensor) -> Tensor:
        """The coefficients, ``[K, B]``, of the dtype and device of ``like`` ``[B]``."""
        if not self.terms:
            return like.new_empty((0, *like.shape))
        # a number is filled in on the device: copying it there would make the host wait
        return torch.stack(
            [
                coeff.to(like).expand(like.shape) if isinstance(coeff, Tensor) else torch.full_like(like, coeff)
                for coeff in self.coeffs
            ]
        )

    def value(self) -> Tensor:
        """The combination as a tensor ``[B, ...]``; a single term with coefficient 1 is returned itself.

        Raises:
            ValueError: for a combination with a prediction, which is not known yet, or without terms.
        """
        if isinstance(self.pred_coeff, Tensor) or self.pred_coeff != 0:
            raise ValueError("a combination with the prediction has no value before the student has predicted")
        if not self.terms:
            raise ValueError("a combination without terms has no value")
        result = None
        for tensor, coeff in zip(self.terms, self.coeffs, strict=True):
            if isinstance(coeff, Tensor):
                coeff = per_sample(coeff, tensor)
                # as in the fused loss, a term with coefficient 0 may hold anything
                part = torch.where(coeff != 0, coeff * tensor, 0)
            else:
                part = tensor if coeff == 1 else coeff * tensor
            result = part if result is None else result + part
        return result.to(self.terms[0].dtype)


PREDICTION = Combination(pred_coeff=1.0)
"""The student's prediction at the point of the step."""


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """``values`` ``[B]`` in the shape that is broadcast over the samples of ``like`` ``[B, ...]``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def term(tensor: Tensor) -> Combination:
    """``tensor`` as a combination."""
    return Combination((tensor,), (1.0,))
