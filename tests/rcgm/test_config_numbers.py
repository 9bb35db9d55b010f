"""Plain words of YAML, and which of them are numbers."""

import pytest

from rcgm.config import ConfigError
from rcgm.config.yaml_text import dump_yaml, parse_yaml
from tests.support.configurations import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("2E5", 2e5), ("-1e+2", -100.0), ("1.5e-3", 1.5e-3), ("12", 12), ("e3", "e3")),
        *(("2e3", 2000.0), ("2.4e3", 2400.0), ("010", 10), ("-08", -8), ("0o17", 15), ("0x1F", 31), ("1.", 1.0)),
        *((".5", 0.5), ("-.inf", float("-inf")), ("1:30", "1:30"), ("1_000", "1_000"), ("2024-01-02", "2024-01-02")),
        *(("yes", "yes"), ("off", "off"), ("true", True), ("False", False), ("~", None), ("null", None), ("", None)),
    ],
)
def test_plain_words_are_read_by_the_rules_of_yaml_1_2(text, value):
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_what_is_written_is_read_back_as_the_same():
    values = {"a": ["010", "1:30", "yes", "0o17", "2e3", "~", "true", "1_000"], "b": [1e-05, 2000.0, 10, True, None]}
    assert parse_yaml(dump_yaml(values)) == values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=true", "steps: must be no truth value; got true"),
        ("optimizer.lr=false", r"optimizer\.lr: must be no truth value; got false"),
        ("sample.steps=[1,true]", r"sample\.steps: must be no truth value; got true"),
        ("objective.order=true", r"objective\.order: must be no truth value; got true"),
        ("steps=2.5e-1", "steps: Input should be a valid integer, got a number with a fractional part; got 0.25"),
        ("steps=1:30", "steps: Input should be a valid integer, .*; got '1:30'"),
        ("seed=18446744073709551616", "seed: Input should be less than 18446744073709551616"),
    ],
)
def test_whole_numbers_are_checked(override, message):
    with pytest.raises(ConfigError, match=message):
        parse(override)


def test_whole_numbers_may_be_written_with_an_exponent():
    assert parse("steps=2.4e3").steps == 2400
    assert parse("steps=010").steps == 10
    assert parse("compile=true").compile is True
