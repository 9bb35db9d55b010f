"""sCM: consistency models in continuous time, made stable (Lu and Song 2024; math.md section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from rcgm.checks import one_of, whole_number
from rcgm.engine.combination import PREDICTION, term
from rcgm.engine.queries import SOURCES, STUDENT, Queries
from rcgm.objectives.base import Objective
from rcgm.objectives.pair import target_derivative
from rcgm.objectives.point import Point
from rcgm.objectives.residual import AnyResidual, Residual
from rcgm.objectives.times import TimeSampler
from rcgm.transports import Transport, TrigFlow

WEIGHTINGS = ("uniform", "learned")
FREQUENCIES = 64


class LearnedWeight(nn.Module):
    """The logarithm of a sample's weight by its time: Fourier features and one linear layer, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", 2 * math.pi * torch.randn(FREQUENCIES, generator=generator))
        self.register_buffer("phase", 2 * math.pi * torch.rand(FREQUENCIES, generator=generator))
        self.linear = nn.utils.skip_init(nn.Linear, FREQUENCIES, 1)  # without a draw from the global generator
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Times ``[B]`` to logarithms ``[B]``."""
        with torch.autocast(t.device.type, enabled=False):  # an exponent: half precision would show in the weight
            features = torch.cos(t.to(self.frequency.dtype)[:, None] * self.frequency + self.phase)
            return self.linear(features * math.sqrt(2))[:, 0]


@dataclass(frozen=True, kw_only=True)
class SCM(Objective):
    """``R = g/(|g| + c)``, ``g = -cos(a) df/da``, ``f = cos(a) x_t - sin(a) F``, ``a = pi t/2`` (TrigFlow).

    With the tangent warm-up ``w``, from 0 to 1 over ``warmup_steps``, that is the paper's ``g = cos(a)^2 (F - dx/da) +
    w cos(a) sin(a) (x_t + dF/da)`` (equation 6, algorithm 1). Written for any transport, where ``f = A x_t + B F`` is
    the step to ``r``::

        g = k^2 (F - T) + w k (B/B'_t) (dF/dt - T')

    with ``B' = dB/dt`` at ``(t, r)``, ``B'_t`` the same at ``(t, t)``, ``k = B'/B'_t``, and the regression target
    ``T``, whose derivative ``T'`` is ``-pi/2 x_t`` under TrigFlow. At ``w = 0`` it is flow matching with weight
    ``k^2``. sCT trains from data, sCD is distilled: ``supervision="teacher"``.

    The factor ``cos(a)`` of ``g`` is ``sin(a)``, the factor of ``F`` in ``f``, times ``1/tan(a)``, the prior weight of
    the paper. So that weight is in every loss. ``InverseTangentWeight`` as the ``sample_weight`` adds it once more, for
    more weight near the data.

    The published programs sum over the elements of a sample: ``reduce="sum"``.

    Args:
        warmup_steps: of the tangent; 10,000 in the paper, 0 for none. Much shorter runs need a shorter warm-up:
            otherwise they only train flow matching.
        normalize: c of the tangent normalisation; None for none.
        weighting: ``"uniform"``, or ``"learned"``: the loss is ``exp(u) m - u``, where ``u`` is a small network of the
            time, so that in the end all times contribute equally (the adaptive weighting of the paper; EDM2).
        network: whose derivative, ``"student"`` (without gradient) or ``"target"``.

    Attributes:
        learned: the small network; used with ``weighting="learned"`` only.

    Raises:
        TypeError: for a number of steps that is not whole.
        ValueError: for a value out of range.
    """

    sampler: ClassVar[str] = "consistency"

    times: TimeSampler = field(default_factory=lambda: TimeSampler("arctan", -1.0, 1.4, interval="zero"))
    transport: Transport = field(default_factory=TrigFlow)
    normalize: float | None = 0.1
    warmup_steps: int = 10_000
    weighting: str = "uniform"
    network: str = STUDENT
    learned: LearnedWeight = field(init=False, repr=False, compare=False, default_factory=LearnedWeight)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("warmup_steps", self.warmup_steps, 0)
        one_of("weighting", self.weighting, WEIGHTINGS)
        one_of("network", self.network, SOURCES)

    def state(self) -> nn.ModuleDict:
        state = super().state()
        if self.weighting == "learned":
            state["weight"] = self.learned
        return state

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.with_regression_target(point)
        dF_dt = yield from self.total_derivative(point, self.network)
        F, T = PREDICTION, term(point.regression_target)
        T_prime = target_derivative(self.transport, point, T)
        k, ratio = self._factors(point)
        w = min(point.step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return Residual(k.square() * (F - T) + (w * k * ratio) * (dF_dt - T_prime))

    def _factors(self, point: Point) -> tuple[Tensor, Tensor]:
        """``B'/B'_t`` and ``B/B'_t``, ``[B]``: ``cos(a)`` and ``2/pi sin(a)`` under TrigFlow."""
        # float64: differences of a few numbers a sample
        t, r = point.t.double(), point.r.double()
        here = self.transport.step_derivative(t, t)
        usable = here.isfinite() & (here != 0)
        inverse = torch.where(usable, 1 / torch.where(usable, here, 1), 0)
        k = torch.where(t > r, self.transport.step_derivative(t, r) * inverse, 1)
        return k.nan_to_num(posinf=0.0, neginf=0.0), self.transport.step(t, r)[1] * inverse

    def losses(self, prediction: Tensor, residual: AnyResidual, point: Point) -> Tensor:
        if self.weighting != "learned":
            return super().losses(prediction, residual, point)
        log_weight = self.learned(point.t)
        weight = self.weights(residual, point)
        losses = residual.losses(prediction, point.t, weight, **self.loss_options())
        # a sample without weight in this step does not change the weight of its time either
        return (log_weight.exp() * losses - (1 if weight is None else weight) * log_weight) / prediction.shape[0]
