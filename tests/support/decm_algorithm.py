"""DE-CM's Algorithm 1, written down a second time from the paper, in plain tensors and in the paper's time.

There ``t = 0`` is noise and ``t = 1`` data, a prediction over ``[t, s]`` leads to ``x_t + (s - t) F``, and ``s = 1`` is
the data. What the algorithm and equation 15 leave in contradiction is settled as the docstring of the part says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rcgm.derivatives import ForwardMode
from rcgm.objectives import DECM, Times, TimeSampler

NULL, BATCH, STEP = 4, 8, 0.005
# Our times: of the first two parts, and t and r of the third, their ends included.
ANYWHERE = torch.tensor([1 / 64, 0.25, 0.5, 0.3, 0.75, 0.9, 63 / 64, 1.0], dtype=torch.float64)
NEAR = torch.tensor([1.0, 0.97, 0.99, 0.95, 0.96, 1.0, 0.98, 0.955], dtype=torch.float64)
ENDS = torch.tensor([0.0, 0.4, 0.9, 0.95, 0.1, 0.6, 0.0, 0.8], dtype=torch.float64)


@dataclass(frozen=True)
class Given(TimeSampler):
    """Times in float64 that are not drawn."""

    given: Times | None = None

    def sample(self, batch, *, generator, device):
        return self.given


def decm(**changes) -> DECM:
    arguments = {
        "times": Given(given=Times(ANYWHERE, ANYWHERE)),
        "near": Given(given=Times(NEAR, ENDS)),
        "derivative": ForwardMode(),
    }
    return DECM(**{**arguments, **changes})


@dataclass
class Settings:
    distilled: bool = True
    normalized: bool = False
    w_cfg: float | None = None
    eta: float = 0.0
    lam: float = 1.0
    gam: float = 1.0
    power: float | None = 0.5
    cosine: float = 1.0
    step: int = 0
    freq: int = 3
    central: bool = False


def column(values: Tensor) -> Tensor:
    return values[:, None]


def published(student, target, teacher, z_ref, z, y, dropped, s: Settings) -> Tensor:
    """Algorithm 1 in the paper's time; ``z_ref`` and ``z`` ``[B, D]``."""
    nothing = torch.full_like(y, NULL)

    def network(module, x, start, end, label=y):
        return -module(x, 1 - start, 1 - end, label)

    def predict(x, start, end):
        return network(student, x, start, end)

    def derivative(x, start, end, direction):
        v, a, b = direction
        with torch.no_grad():
            if s.central:
                ahead, behind = (predict(x + e * v, start + e * a, end + e * b) for e in (STEP, -STEP))
                return (ahead - behind) / (2 * STEP)
            speeds = (v, torch.full_like(start, a), torch.full_like(end, b))
            return torch.func.jvp(predict, (x, start, end), speeds)[1]

    @torch.no_grad()
    def guided(v, x, start, module):
        if s.w_cfg is None:
            return v
        difference = network(module, x, start, start) - network(module, x, start, start, nothing)
        if s.normalized:
            difference = s.eta * difference / difference.norm(dim=1, keepdim=True)
        return v + torch.where(column(dropped), 0, (s.w_cfg - 1) * difference)

    @torch.no_grad()
    def velocity(x, start):
        if s.distilled:
            return guided(network(teacher, x, start, start), x, start, teacher)
        return guided(z_ref - z, x, start, target)

    def weighted(difference):
        m = difference.square().mean(1)
        weight = 1 if s.power is None else (difference.shape[1] * m.detach() + 1e-3) ** -s.power
        return (weight * m).mean()

    t = 1 - ANYWHERE
    z_t = column(1 - t) * z + column(t) * z_ref
    v_t = velocity(z_t, t)
    one = torch.ones_like(t)

    F_cm = predict(z_t, t, one)
    g_cm = F_cm.detach() - v_t - column(1 - t) * derivative(z_t, t, one, (v_t, 1.0, 0.0))
    w_1 = (1 - t) / 2  # equation 7, with the weight 1/epsilon
    loss_cm = weighted(F_cm - (F_cm.detach() - column(w_1) * g_cm))

    F_fm = predict(z_t, t, t)
    loss_fm = ((F_fm - v_t).square().mean(1) + s.cosine * (1 - cosine_similarity(F_fm, v_t, dim=1))).mean()
    loss = loss_cm + loss_fm
    if s.step % s.freq:
        return loss

    r, t = 1 - NEAR, 1 - ENDS  # from r, near noise, to any t
    z_r = column(1 - r) * z + column(r) * z_ref
    v_r = velocity(z_r, r)
    F_n2n = predict(z_r, r, t)
    with torch.no_grad():
        landing = z_r + column(t - r) * F_n2n
        v_landing = velocity(landing, t) if s.distilled else network(target, landing, t, t)
    n2n_derivative = derivative(z_r, r, t, (s.lam * v_r, s.lam, -s.gam))
    g_n2n = (s.lam + s.gam) * F_n2n.detach() - (s.lam * v_r + s.gam * v_landing) - column(t - r) * n2n_derivative
    w_2 = 1 / (s.lam + s.gam)
    return loss + weighted(F_n2n - (F_n2n.detach() - w_2 * g_n2n)) + loss_fm


def batch():
    generator = torch.Generator().manual_seed(5)
    x, z = (torch.randn(BATCH, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, z, torch.randint(0, NULL, (BATCH,), generator=generator)
