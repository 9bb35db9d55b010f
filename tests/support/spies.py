"""Networks that remember what they were asked, and queries to ask them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcgm.engine import Query
from rcgm.objectives import Times
from tests.support.rounding import assert_rounded

BATCH, EQUAL = 7, 2
REST = BATCH - EQUAL


class Spy:
    """A network that remembers what it was asked, and answers with something that every argument changes."""

    def __init__(self, name="target", log=None, factor=1.0):
        self.name, self.log, self.factor = name, [] if log is None else log, factor
        self.calls = []

    def __call__(self, x, t, r, cond):
        self.log.append(self.name)
        self.calls.append((x.clone(), t.clone(), r.clone(), cond))
        return self.answer(x, t, r, cond)

    def answer(self, x, t, r, cond):
        row = sum(leaf.double().reshape(len(x), -1).sum(1) for leaf in leaves(cond))
        scalar = t + 10 * r + 100 * row
        return self.factor * (x + scalar.to(x).reshape(-1, *[1] * (x.ndim - 1)))

    @property
    def batches(self):
        return [len(x) for x, *_ in self.calls]


def leaves(condition):
    if condition is None:
        return []
    if isinstance(condition, torch.Tensor):
        return [condition]
    return [
        leaf for part in (condition.values() if isinstance(condition, dict) else condition) for leaf in leaves(part)
    ]


class Student(nn.Module):
    """A network with a parameter, whose forwards are noted."""

    def __init__(self, name="student", log=None):
        super().__init__()
        self.name, self.log = name, [] if log is None else log
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.grad_modes, self.outputs = [], []

    def forward(self, x, t, r, cond):
        self.log.append(self.name)
        self.grad_modes.append(torch.is_grad_enabled())
        self.outputs.append((self.scale * x) ** 2)
        return self.outputs[-1]


def draw(shape=(BATCH, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator) for _ in range(2))
    t = 0.2 + 0.8 * torch.rand(shape[0], generator=generator)
    r = 0.5 * t
    r[:EQUAL] = t[:EQUAL]
    return x, z, Times(t, r, EQUAL)


def ask(*waves):
    """Queries that yield ``waves`` and return all answers."""

    def queries():
        answers = []
        for wave in waves:
            answers.append((yield wave))
        return answers

    return queries()


def query(seed=0, start=0, **kwargs):
    x, _, times = draw(seed=seed)
    return Query(x, times.t, times.r, start=start, **kwargs)


def same(answer: Tensor, expected: Tensor) -> None:
    """The same but for the few roundings of a spy."""
    assert_rounded(answer, expected, roundings=10)


LABEL = torch.arange(BATCH)
NESTS = {
    "tensor": (LABEL, torch.tensor([40])),
    "matrix": (LABEL[:, None] * torch.ones(4), torch.full((1, 4), 40.0)),
    "dict": ({"a": LABEL, "b": LABEL[:, None] * 3.0}, {"a": torch.tensor([40]), "b": torch.tensor([[50.0]])}),
    "nest": (
        (LABEL, {"image": [LABEL[:, None, None] * torch.ones(2, 2)]}),
        (torch.tensor([40]), {"image": [torch.full((1, 2, 2), 50.0)]}),
    ),
}
