"""The examples of README.md run as they are printed, and its tables are those of the result files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def student() -> torch.nn.Module:
    class Student(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 2)

        def forward(self, x, t, r, cond=None):
            return torch.einsum("bchw,cd->bdhw", x, self.weight) + (t - r).view(-1, 1, 1, 1)

    return Student()


def test_the_loss_in_a_loop(student: torch.nn.Module):
    names: dict = {}
    exec(BLOCKS[1], names)
    x, z = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.9, 0.5, 0.3, 0.305, 0.0])
    r = torch.tensor([0.1, 0.0, 0.3, 0.3, 0.0])
    time = t.view(-1, 1, 1, 1)
    loss = names["training_loss"](student, student, time * z + (1 - time) * x, z - x, t, r)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.weight.grad.abs().max() > 0


def test_the_objective_in_a_loop(student: torch.nn.Module):
    before = student.weight.detach().clone()
    ema = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ema.update_parameters(student)  # the first call copies the weights
    names = {
        "student": student,
        "ema": ema,
        "optimizer": torch.optim.SGD(student.parameters(), lr=1.0),
        "loader": [(torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)), None)],
    }
    exec(BLOCKS[0], names)
    moved = student.weight.detach() - before
    assert moved.abs().max() > 0
    torch.testing.assert_close(ema.module.weight, before + 0.1 * moved)
    assert names["out"].waves == 2


def test_tables_are_those_of_the_result_files():
    from benchmarks import pages  # found by `python -m pytest` in the checkout

    texts = [page.read_text() for page in pages.pages()]
    assert [pages.with_tables(text) for text in texts] == texts
    shown = [found["name"] for text in texts for found in pages.BLOCK.finditer(text)]
    assert sorted(shown) == sorted(pages.TABLES)  # every table once


def test_a_block_without_a_table_is_refused():
    from benchmarks import pages

    with pytest.raises(ValueError, match="block 'nothing' must be one of digits, "):
        pages.with_tables("<!-- begin nothing -->\n<!-- end nothing -->")
