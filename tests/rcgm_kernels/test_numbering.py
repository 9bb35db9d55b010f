"""Names and fields have the same numbers in Python and in csrc/common/arrays.h, which every extension reads."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rcgm_kernels import checks
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.options import METRICS, REDUCTIONS, LossOptions, Metric
from rcgm_kernels.plan import LossPlan

HEADER = (Path(__file__).resolve().parents[2] / "csrc" / "common" / "arrays.h").read_text()


def enumerators(name: str) -> dict[str, int]:
    """The values of an enum by their names in lower case without the leading k and underscores."""
    body = re.search(rf"enum class {name} : int {{([^}}]*)}}", HEADER)[1]
    return {word.lower(): int(number) for word, number in re.findall(r"k(\w+) = (\d+)", body)}


def plain(names: tuple[str, ...]) -> dict[str, int]:
    return {name.replace("_", ""): index for index, name in enumerate(names)}


def test_metrics_and_reductions_have_the_places_of_their_names():
    assert enumerators("Metric") == plain(METRICS)
    assert enumerators("Reduction") == plain(REDUCTIONS)


def test_the_most_terms_are_the_same():
    assert int(re.search(r"kMaxTerms = (\d+)", HEADER)[1]) == checks.MAX_TERMS


def test_the_plan_gives_every_field_of_the_options():
    body = re.search(r"struct LossOptions {(.*?)\n};", HEADER, re.DOTALL)[1]
    fields = re.findall(r"^  \w+ (\w+);", body, re.MULTILINE)
    x, coeffs = torch.ones(4, 3), torch.ones(1, 4)
    options = LossOptions(False, True, 7.0, Metric("barron", 2.0, 0.5), 0.25, None, "sum", "none", True)
    plan = LossPlan.of(LossInputs(x, [x], coeffs, None, None, None, None), options)
    numbers = dict(zip(fields, plan.numbers, strict=True))
    expected = {"times": False, "pred_in_residual": True, "clip": 7.0, "metric_c": 2.0, "metric_alpha": 0.5}
    expected |= {"normalize": 0.25, "sum_of_elements": True, "metric": METRICS.index("barron")}
    assert expected.items() <= numbers.items()
    assert numbers["reduction"] == REDUCTIONS.index("none")
