"""The data and the noise that a state and a regression target stand for, without forming them."""

from __future__ import annotations

from torch import Tensor

from rcgm.engine.combination import Combination, term
from rcgm.objectives.point import Point
from rcgm.transports import Transport


def of_pair(transport: Transport, point: Point, target: Combination, noise: Tensor, data: Tensor) -> Combination:
    """``noise z + data x`` of the pair whose state at ``t`` is ``x_t`` and whose regression target is ``target``.

    The pair of the batch where ``target`` is its own; where a teacher or guidance has changed it, the ``x*`` and
    ``z*`` of UCGM, which rebuild ``x_t`` too. Coefficients ``[B]``.
    """
    t = point.t.double()  # as in its callers: a few numbers a sample, whose differences are divided by a small step
    alpha, gamma = transport.alpha(t), transport.gamma(t)
    alpha_hat, gamma_hat = transport.alpha_hat(t), transport.gamma_hat(t)
    inverse = 1 / transport.determinant(t)
    carried = (noise * gamma_hat - data * alpha_hat) * inverse
    return carried * term(point.x_t) + (data * alpha - noise * gamma) * inverse * target


def target_derivative(transport: Transport, point: Point, target: Combination) -> Combination:
    """``T' = alpha_hat' z + gamma_hat' x`` of the pair whose regression target at ``t`` is ``target``, ``r`` fixed."""
    t = point.t.double()
    return of_pair(transport, point, target, transport.alpha_hat_derivative(t), transport.gamma_hat_derivative(t))
