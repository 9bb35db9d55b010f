"""A network with noise of its own, as rounding is, whose derivative along the path is known."""

from __future__ import annotations

import torch

from rcgm.derivatives import Central
from rcgm.engine import Derivative, Engine, Tangent

SIZE = 256


class Noisy:
    """``sin(k (t + phase))`` in every element, with noise that is each evaluation's own, as rounding is."""

    def __init__(self, noise, frequency=10.0, by_time=0.0, seed=0):
        self.noise, self.frequency, self.by_time = noise, frequency, by_time
        self.generator = torch.Generator().manual_seed(seed)
        self.phase = torch.rand(SIZE, generator=self.generator, dtype=torch.float64)
        self.sizes = []

    def k(self, t):
        return self.frequency * torch.exp(self.by_time * t)

    def __call__(self, x, t, r, cond):
        self.sizes.append(len(x))
        k = self.k(t[:, None])
        clean = torch.sin(k * (t[:, None] + self.phase))
        return clean + self.noise * torch.randn(clean.shape, generator=self.generator, dtype=torch.float64)

    def derivative(self, t):
        k = self.k(t[:, None])
        inner = k * (t[:, None] + self.phase)
        return torch.cos(inner) * (k + self.by_time * inner)


def draw(batch=32, seed=0, inside=True):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    if inside:
        t = 0.3 + 0.4 * t
    return t, t * (0.1 if inside else torch.rand(batch, generator=generator, dtype=torch.float64))


def run(estimator, network, t, r, start=0):
    x = torch.zeros(len(t), SIZE, dtype=torch.float64)
    asked = Derivative(x, t, r, Tangent(torch.zeros_like(x)), start=start)

    def queries():
        return (yield [asked])

    (answer,) = Engine({"student": network}, estimator=estimator).run(queries())
    return answer


def error(estimator, network, t, r):
    value = run(estimator, network, t, r).value()
    return ((value - network.derivative(t)).norm() / network.derivative(t).norm()).item()


def best_fixed(network, t, r, order=2):
    steps = [0.25 / 1.25**i for i in range(26)]
    return min(error(Central(step * 2 / order, order), network, t, r) for step in steps)
