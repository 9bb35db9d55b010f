"""UCGM's algorithm, written down a second time from the page (math.md section 4), in plain tensors.

Here one sample at a time, with the paper's ``f_x`` and times as plain numbers, at ``r = 0`` as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.derivatives import Central
from rcgm.objectives import UCGM, CosineWeight, SelfEnhancedTarget, TeacherEnhancedTarget
from rcgm.transports import EDM, Linear, ReversedLinear, TrigFlow, TrigLinear
from rcgm_kernels import Metric

NULL = 4
TIMES = [1.0, 0.998, 0.9, 0.76, 0.75, 0.62, 0.5, 0.33, 0.3, 0.1, 0.01, 0.003]
BATCH = len(TIMES)
RANGE = (0.2, 0.75)
HALF_PI = math.pi / 2


# alpha, gamma, alpha_hat, gamma_hat at a time
FUNCTIONS = {
    "linear": lambda t: (t, 1 - t, 1.0, -1.0),
    "trigflow": lambda t: (
        math.sin(HALF_PI * t),
        math.cos(HALF_PI * t),
        math.cos(HALF_PI * t),
        -math.sin(HALF_PI * t),
    ),
    "triglinear": lambda t: (math.sin(HALF_PI * t), math.cos(HALF_PI * t), 1.0, -1.0),
    "reversed": lambda t: (t, 1 - t, -1.0, 1.0),
}
CURVED = [Linear(), TrigFlow(), TrigLinear(), EDM()]
TRANSPORTS = {"linear": Linear(), "trigflow": TrigFlow(), "triglinear": TrigLinear(), "reversed": ReversedLinear()}


@dataclass
class Settings:
    ratio: float
    transport: str = "linear"
    zeta: float | None = None
    guided_inputs: bool = False
    c: float = 5.0
    cosine: float = 0.0
    weighted: bool = True
    clip: float = 1.0
    epsilon: float = 0.005


def loss_of_one_sample(
    student: Callable, null_network: Callable, teacher: Callable, x, z, t: float, label, dropped: bool, s: Settings
) -> Tensor:
    """The loss of a sample ``x``, ``z`` of shape ``[1, ...]``, with gradient."""
    functions = FUNCTIONS[s.transport]

    def ask(network, state, time, end, condition=label):
        return network(state, *torch.tensor([[time], [end]], dtype=torch.float64), condition)

    def f_x(F, state, time):
        alpha, gamma, alpha_hat, gamma_hat = functions(time)
        return (alpha * F - alpha_hat * state) / (alpha * gamma_hat - alpha_hat * gamma)

    def f_z(F, state, time):
        alpha, gamma, alpha_hat, gamma_hat = functions(time)
        return (gamma_hat * state - gamma * F) / (alpha * gamma_hat - alpha_hat * gamma)

    alpha, gamma, alpha_hat, gamma_hat = functions(t)
    x_t = alpha * z + gamma * x
    F = ask(student, x_t, t, t if s.ratio == 0 else 0.0)
    with torch.no_grad():
        x_star, z_star = x, z
        if s.zeta is not None and s.ratio == 0:
            F_null = ask(null_network, x_t, t, t, torch.tensor([NULL]))
            estimates = [(x, f_x(F, x_t, t), f_x(F_null, x_t, t)), (z, f_z(F, x_t, t), f_z(F_null, x_t, t))]
            if dropped:
                x_star, z_star = ((own + null) / 2 for own, _, null in estimates)
            elif RANGE[0] <= t <= RANGE[1]:
                x_star, z_star = (own + s.zeta * (cond - null) for own, cond, null in estimates)
            else:
                x_star, z_star = ((own + cond) / 2 for own, cond, _ in estimates)
        elif s.zeta is not None and not dropped:
            F_teacher = ask(teacher, x_t, t, t)
            strength = s.zeta if RANGE[0] <= t <= RANGE[1] else 0.5
            x_star = x + strength * (f_x(F_teacher, x_t, t) - x)
            z_star = z + strength * (f_z(F_teacher, x_t, t) - z)

        def f(time, prediction=None):
            alpha, gamma, _, _ = functions(time)
            guided = alpha * z_star + gamma * x_star
            state = guided if s.guided_inputs else alpha * z + gamma * x
            prediction = ask(student, state, time, 0.0) if prediction is None else prediction
            return f_x(prediction, guided, time)

        if s.ratio == 0:
            target = alpha_hat * z_star + gamma_hat * x_star
        else:
            if s.ratio < 1:
                df = (f(t, F) - f(s.ratio * t)) / (t - s.ratio * t)
            else:
                behind, ahead = max(t - s.epsilon, 0.0), min(t + s.epsilon, 1.0)
                df = (f(ahead) - f(behind)) / (ahead - behind)
            factor = alpha / (alpha * gamma_hat - alpha_hat * gamma) * 4 / math.sin(HALF_PI * t)
            target = F - factor * df.clamp(-s.clip, s.clip)
    m = (F - target).square().mean()
    loss = (m + s.c**2).sqrt() - s.c
    loss = loss + s.cosine * (1 - torch.cosine_similarity(F.flatten(1), target.flatten(1)).squeeze(0))
    return loss * max(math.cos(HALF_PI * t), 0) if s.weighted else loss


def batch(shape=(BATCH, 3), seed=5):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, NULL, (shape[0],), generator=generator)
    return x, z, torch.tensor(TIMES, dtype=torch.float64), labels


def objective_of(s: Settings, **changes) -> UCGM:
    guidance = None
    if s.zeta is not None:
        guidance = (SelfEnhancedTarget if s.ratio == 0 else TeacherEnhancedTarget)(s.zeta, *RANGE)
    arguments = {
        "consistency_ratio": s.ratio,
        "transport": TRANSPORTS[s.transport],
        "guidance": guidance,
        "inputs": "guided" if s.guided_inputs else "data",
        "metric": Metric("pseudo_huber", c=s.c, cosine=s.cosine),
        "sample_weight": CosineWeight() if s.weighted else None,
        "clip": s.clip,
        "derivative": Central(s.epsilon),
    }
    return UCGM(**{**arguments, **changes})


def plain(**changes) -> UCGM:
    """Without weight and clamp, and the L2 metric: the gradient shows the residual."""
    return UCGM(**{"metric": Metric(), "clip": None, "sample_weight": None, **changes})
