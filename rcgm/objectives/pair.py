"""The data and the noise that a state and an order-zero target stand for, without forming them."""

from __future__ import annotations

from torch import Tensor

from rcgm.engine.combination import Combination, term
from rcgm.objectives.point import Point
from rcgm.transports import Transport


def of_pair(transport: Transport, point: Point, target: Combination, noise: Tensor, data: Tensor) -> Combination:
    """``noise z + data x`` of the pair whose state at ``t`` is ``x_t`` and whose order-zero target is ``target``.

    The pair of the batch where ``target`` is its own; where a teacher or guidance has changed it, the ``x*`` and
    ``z*`` of UCGM, which rebuild ``x_t`` too. Coefficients ``[B]``.
    """
    t = point.t.double()  # as in its callers: a few numbers a sample, whose differences are divided by a small step
    alpha, gamma = transport.alpha(t), transport.gamma(t)
    alpha_hat, gamma_hat = transport.alpha_hat(t), transport.gamma_hat(t)
    inverse = 1 / transport.determinant(t)
    carried = (noise * gamma_hat - data * alpha_hat) * inverse
    return carried * term(point.x_t) + (data * alpha - noise * gamma) * inverse * target
