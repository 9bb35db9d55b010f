"""What a configuration may say of an objective, two steps of each combination: the command's short form."""

import math

import pytest

from benchmarks import configurations
from benchmarks.configuration_options import COMMON, MAIN, options_of
from benchmarks.configurations import built, outcome, pairs, summarised, whole
from rcgm.config.families import FAMILIES
from rcgm.objectives import OBJECTIVES


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_pair_of_options_fails(objective):
    found = summarised((configuration, outcome(objective, configuration)) for configuration in pairs(objective))
    assert "failed" not in found, found["examples"]
    # what two options exclude is left out; three may still
    assert found["counts"]["ok"] > 0.8 * sum(found["counts"].values())


@pytest.mark.parametrize("objective", ["flow_matching", "decm"])
def test_the_short_form_contains_every_pair_that_may_be_built(objective):
    configurations = pairs(objective)
    options = options_of(objective)
    names = list(options)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            for value in options[one]:
                for second in options[other]:
                    if built(objective, {one: value, other: second})[0] is not None:
                        assert any(made.get(one) == value and made.get(other) == second for made in configurations)


def test_all_members_of_a_family_have_a_turn():
    values = [value for options in COMMON.values() for value in options if value is not None]
    named = {value.get("name") if isinstance(value, dict) else value for value in values}
    for members in FAMILIES.values():
        classes = {member for name, member in members.items() if name in named}
        assert classes == set(members.values())


def test_the_whole_form_is_the_product_of_the_main_options():
    options = options_of("rcgm")
    product = list(whole("rcgm"))
    chosen = {repr([configuration[name] for name in MAIN]) for configuration in product}
    assert len(product) == len(chosen) == math.prod(len(options[name]) for name in MAIN)
    assert product == list(whole("rcgm"))


@pytest.mark.parametrize(
    ("losses", "norms", "configuration", "kind", "reason"),
    [
        ([1.0, 2.0], [1.0, 1.0], {}, "ok", ""),
        ([1.0, math.nan], [1.0, 1.0], {}, "failed", "a loss is not finite"),
        ([1.0, 1.0], [math.inf, 1.0], {}, "failed", "a gradient is not finite"),
        ([-1e7, 1.0], [1.0, 1.0], {"transport": "ve", "clip": 1.0}, "failed", "a loss is above 1e+06"),
        ([1e7, 1.0], [1.0, 1.0], {"transport": "ve", "clip": None}, "large", "a loss is above 1e+06"),
        ([1.0], [1.0], {"dt": -1.0}, "refused", "dt must be from 1e-06 to 1, got -1.0"),
    ],
)
def test_outcomes(losses, norms, configuration, kind, reason, monkeypatch):
    monkeypatch.setattr(configurations, "trained", lambda *arguments, **options: (losses, norms))
    came = outcome("rcgm", configuration)
    assert (came.kind, came.reason) == (kind, reason)


def test_what_a_training_raises_is_a_failure(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("of 12 tensors\nnone")

    monkeypatch.setattr(configurations, "trained", fail)
    found = summarised([({"order": 1}, outcome("rcgm", {"order": 1})), ({}, outcome("rcgm", {}))])
    assert found["counts"] == {"failed": 2} and found["failed"] == {"RuntimeError: of N tensors": 2}
    assert found["examples"]["RuntimeError: of N tensors"]["configuration"] == {"order": 1}
