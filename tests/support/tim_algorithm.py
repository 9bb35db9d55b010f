"""TiM's algorithm, written down a second time from the paper (equations 6 to 13, table 1), in plain tensors.

Here one sample at a time, with the paper's letters (alpha for data, sigma for noise), its times where they differ from
[0, 1], and the coefficients ``B`` and ``dB/dt`` of its table, two of whose misprints are mended: ``dB/dt`` of its own
transport lacks a factor pi, and ``B`` of VP has ``beta_r`` in its denominator (both follow from equation 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.derivatives import Central
from rcgm.objectives import IntervalWeight, MixedTarget, TiM, Times
from rcgm.transports import Linear, Transport, TrigFlow, TrigLinear
from rcgm_kernels import AdaptiveWeight

NULL = 4
PI = math.pi
EQUAL = 3
# t and r. The first EQUAL are said to be equal; the others hold a sample that happens to be.
INTERVALS = [
    (0.7, 0.7),
    (0.25, 0.25),
    (1.0, 1.0),
    (0.4, 0.4),
    (0.5, 0.497),  # t - e < r
    (0.998, 0.1),  # t + e > 1
    (1.0, 0.3),
    (0.9, 0.0),
    (0.8, 0.1),
    (0.62, 0.55),
    (0.33, 0.0),
    (0.31, 0.3),
]
BATCH = len(INTERVALS)
RANGE = (0.3, 0.8)


class Functions(Transport):
    """A transport of four functions, none of whose derivatives are given."""

    def __init__(self, alpha, gamma, alpha_hat, gamma_hat):
        self.four = alpha, gamma, alpha_hat, gamma_hat

    def alpha(self, t):
        return self.four[0](t)

    def gamma(self, t):
        return self.four[1](t)

    def alpha_hat(self, t):
        return self.four[2](t)

    def gamma_hat(self, t):
        return self.four[3](t)


def beta(t):
    return torch.sqrt(torch.expm1(0.5 * 19.9 * t**2 + 0.1 * t))


def beta_derivative(t):
    return (19.9 * t + 0.1) * torch.exp(0.5 * 19.9 * t**2 + 0.1 * t) / (2 * beta(t))


@dataclass
class Row:
    """A row of table 1: the time of the paper at our 1, coefficients of data and noise, what is regressed, ``B``."""

    end: float
    path: Callable  # alpha, sigma
    regressed: Callable  # alpha_hat, sigma_hat
    derivatives: Callable  # their derivatives
    B: Callable
    B_derivative: Callable
    transport: Transport


ONE, ZERO = torch.ones_like, torch.zeros_like
TABLE = {
    "OT-FM": Row(
        1.0,
        lambda t: (1 - t, t),
        lambda t: (-1, 1),
        lambda t: (0, 0),
        lambda t, r: r - t,
        lambda t, r: -1,
        Linear(),
    ),
    "TrigFlow": Row(
        PI / 2,
        lambda t: (torch.cos(t), torch.sin(t)),
        lambda t: (-torch.sin(t), torch.cos(t)),
        lambda t: (-torch.cos(t), -torch.sin(t)),
        lambda t, r: torch.sin(r - t),
        lambda t, r: -torch.cos(r - t),
        TrigFlow(),
    ),
    "VP-SDE": Row(
        1.0,
        lambda t: (1 / (beta(t) ** 2 + 1).sqrt(), beta(t) / (beta(t) ** 2 + 1).sqrt()),
        lambda t: (0, 1),
        lambda t: (0, 0),
        lambda t, r: (beta(r) - beta(t)) / (beta(r) ** 2 + 1).sqrt(),
        lambda t, r: -beta_derivative(t) / (beta(r) ** 2 + 1).sqrt(),
        Functions(lambda t: beta(t) / (beta(t) ** 2 + 1).sqrt(), lambda t: 1 / (beta(t) ** 2 + 1).sqrt(), ONE, ZERO),
    ),
    "VE-SDE": Row(
        5.0,
        lambda t: (1, t),
        lambda t: (0, -1),
        lambda t: (0, 0),
        lambda t, r: t - r,
        lambda t, r: 1,
        Functions(lambda t: 5 * t, ONE, lambda t: -torch.ones_like(t), ZERO),
    ),
    # sigma_d = 1/2, up to the square root that the table leaves out of alpha
    "EDM": Row(
        3.0,
        lambda t: (0.5 / (t**2 + 0.25).sqrt(), t / (t**2 + 0.25).sqrt()),
        lambda t: (t / (t**2 + 0.25).sqrt(), -0.5 / (t**2 + 0.25).sqrt()),
        lambda t: (0.25 / (t**2 + 0.25) ** 1.5, 0.5 * t / (t**2 + 0.25) ** 1.5),
        lambda t, r: 0.5 * (t - r) / (t**2 + 0.25).sqrt() / (r**2 + 0.25).sqrt(),
        lambda t, r: 0.5 * (0.25 + t * r) / (t**2 + 0.25) ** 1.5 / (r**2 + 0.25).sqrt(),
        Functions(
            lambda t: 3 * t / (9 * t**2 + 0.25).sqrt(),
            lambda t: 0.5 / (9 * t**2 + 0.25).sqrt(),
            lambda t: -0.5 / (9 * t**2 + 0.25).sqrt(),
            lambda t: 3 * t / (9 * t**2 + 0.25).sqrt(),
        ),
    ),
    "TiM": Row(
        1.0,
        lambda t: (torch.cos(PI / 2 * t), torch.sin(PI / 2 * t)),
        lambda t: (-1, 1),
        lambda t: (0, 0),
        lambda t, r: torch.sin(PI / 2 * (r - t)) / (torch.sin(PI / 2 * t) + torch.cos(PI / 2 * t)),
        lambda t, r: -PI * math.sqrt(2) * torch.sin(PI / 2 * r + PI / 4) / (2 * torch.sin(PI * t) + 2),
        TrigLinear(),
    ),
}


@dataclass
class Settings:
    row: str
    guidance: tuple[float, float, bool] | None = None  # w_cond, w_gt, both times
    guided_inputs: bool = False
    sigma_d: float | None = 1.0
    warp: str = "tangent"
    power: float = 0.5
    adaptive: tuple[float, float] | None = (1.0, 1e-3)
    epsilon: float = 0.005


def loss_of_one_sample(student, target, x, z, t: float, r: float, label, dropped: bool, s: Settings) -> Tensor:
    """The loss of a sample ``x``, ``eps = z`` of shape ``[1, ...]``, with gradient."""
    row = TABLE[s.row]
    tau, rho = (torch.tensor(row.end * time, dtype=torch.float64) for time in (t, r))  # the paper's times

    def ask(network, state, time, end, condition=label):
        return network(state, time[None] / row.end, end[None] / row.end, condition)

    alpha, sigma = row.path(tau)
    x_t = alpha * x + sigma * z
    F = ask(student, x_t, tau, rho)
    with torch.no_grad():
        alpha_hat, sigma_hat = row.regressed(tau)
        regressed = alpha_hat * x + sigma_hat * z
        if s.guidance is not None and not dropped and RANGE[0] <= t <= RANGE[1]:
            w_cond, w_gt, both = s.guidance
            if not both or RANGE[0] <= r <= RANGE[1]:
                F_cond, F_null = ask(target, x_t, tau, tau), ask(target, x_t, tau, tau, torch.tensor([NULL]))
                regressed = w_gt * regressed + w_cond * F_cond + (1 - w_gt - w_cond) * F_null
        # the data and the noise that the regressed stands for: equation 4
        determinant = sigma_hat * alpha - alpha_hat * sigma
        x_star = (sigma_hat * x_t - sigma * regressed) / determinant
        z_star = (alpha * regressed - alpha_hat * x_t) / determinant
        alpha_derivative, sigma_derivative = row.derivatives(tau)

        def f(time):
            alpha, sigma = row.path(time)
            return ask(student, alpha * x + sigma * z, time, rho)

        f_hat = regressed
        if t > r:
            e = row.end * s.epsilon
            behind, ahead = (tau - e).clamp(min=rho), (tau + e).clamp(max=row.end)
            derivative = (f(ahead) - f(behind)) / (ahead - behind)
            f_hat = regressed + row.B(tau, rho) / row.B_derivative(tau, rho) * (
                alpha_derivative * x_star + sigma_derivative * z_star - derivative
            )
    m = (F - f_hat).square().mean()
    loss = m
    if s.sigma_d is not None:
        warp = {"tangent": math.tan, "odds": lambda time: time / (1 - time), "identity": lambda time: time}[s.warp]
        if t == r:
            loss = loss * s.sigma_d**-s.power
        elif s.warp == "odds" and t == 1:
            loss = 0 * loss
        else:
            loss = loss * (s.sigma_d + warp(t) - warp(r)) ** -s.power
    if s.adaptive is not None:
        power, eps = s.adaptive
        loss = loss / (F.numel() * m.detach() + eps) ** power
    return loss


def batch(shape=(BATCH, 3), seed=5):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    times = torch.tensor(INTERVALS, dtype=torch.float64)
    labels = torch.randint(0, NULL, (shape[0],), generator=generator)
    return x, z, Times(times[:, 0].contiguous(), times[:, 1].contiguous(), EQUAL), labels


def objective_of(s: Settings, **changes) -> TiM:
    guidance = None
    if s.guidance is not None:
        w_cond, w_gt, both = s.guidance
        guidance = MixedTarget(w_cond, *RANGE, data=w_gt, both_times=both)
    arguments = {
        "transport": TABLE[s.row].transport,
        "guidance": guidance,
        "sample_weight": None if s.sigma_d is None else IntervalWeight(s.sigma_d, s.warp, s.power),
        "adaptive": None if s.adaptive is None else AdaptiveWeight(*s.adaptive),
        "derivative": Central(s.epsilon),
    }
    return TiM(**{**arguments, **changes})
