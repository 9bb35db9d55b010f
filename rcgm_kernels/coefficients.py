"""The coefficients of the N-th order recursive residual."""

from __future__ import annotations

import torch
from torch import Tensor


def recursive_coefficients(times: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the base ``[B]`` and of the N segments ``[N, B]``, in float64, from knots ``[N+2, B]``.

    With ``dt = t_0 - t_1`` the residual of math.md section 2 (RCGM, equations 7 and 8) is
    ``base * F(x_t, t, r) + sum_i segments[i] * F-(x_{t_i}, t_i, t_{i+1}) - v``. Segments of length 0 get 0, so that
    ``t_1 = r`` is flow matching. Knots out of order, or not finite, give NaN, in their own sample.
    """
    knots = times.double()
    gaps = knots[:-1] - knots[1:]
    dt, lengths = gaps[0], gaps[1:]
    segments = torch.where((lengths > 0) & (lengths < torch.inf) & (dt > 0), -lengths / dt, torch.nan)
    segments = torch.where((lengths == 0) & (dt >= 0), 0.0, segments)
    base = torch.where((dt >= 0) & (dt < torch.inf), 1 - segments.sum(0), torch.nan)
    return base, segments
