"""Trains every combination of the options of an objective for two steps: none may crash or give a non-finite number.

    python -m benchmarks.configurations                      all combinations of the main options (``MAIN``), while the
                                                             others take turns; benchmarks/results/configurations.json
    python -m benchmarks.configurations --pairs              as few as contain every pair of values of any two options,
                                                             as the tests do
    python -m benchmarks.configurations --objective rcgm     one objective alone, written nowhere

A configuration may be refused when it is built; refusals are counted by their message. It fails if training raises an
error, if a loss or a gradient is not finite, or if a loss is above 1e6; where ``Objective`` documents that losses can
be that large (``may_be_large``), it is counted separately. The exit code is 1 if any fails.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import math
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import environment
from benchmarks.configuration_options import MAIN, STEP, options_of
from rcgm.config.components import bind_arguments
from rcgm.models import MLP
from rcgm.objectives import OBJECTIVES
from rcgm.training.ema import Ema
from rcgm.training.step import TrainStep

LARGEST_LOSS = 1e6
BATCH, DIM, CLASSES = 8, 3, 2
STEPS = 2

Configuration = dict[str, Any]
"""Values of the options of an objective, as a file holds them, and of ``STEP``."""

Choice = tuple[str, int]
"""An option, and the place of one of its values."""

TRIES = 20


@dataclass(frozen=True)
class Outcome:
    """What came of a configuration: ``ok``, ``refused``, ``large`` or ``failed``, and why."""

    kind: str
    reason: str = ""
    loss: float = 0.0


def whole(objective: str) -> Iterator[Configuration]:
    """All combinations of the options in ``MAIN``; values of the others are drawn, the same ones every time.

    They are drawn again while they are refused, so that what is refused is a combination of the main options.
    """
    options = options_of(objective)
    others = [name for name in options if name not in MAIN]
    generator = random.Random(objective)
    for values in itertools.product(*(options[name] for name in MAIN)):
        for _ in range(TRIES):
            drawn = {name: generator.choice(options[name]) for name in others}
            configuration = dict(zip(MAIN, values, strict=True)) | drawn
            if built(objective, configuration)[0] is not None:
                break
        yield configuration


def pairs(objective: str) -> list[Configuration]:
    """As few configurations as a greedy search finds that contain all pairs of values that may be built together."""
    known, generator, found = options_of(objective), random.Random(objective), []
    values = {name: [(name, place) for place in range(len(options))] for name, options in known.items()}
    names = list(values)

    def configuration(chosen: Iterable[Choice]) -> Configuration:
        return {name: known[name][place] for name, place in chosen}

    def may_be_built(chosen: Iterable[Choice]) -> bool:
        return built(objective, configuration(chosen))[0] is not None

    def in_some_way(*chosen: Choice) -> bool:
        """With the defaults, with one other value, or with drawn ones."""
        single = ([value] for name in names for value in values[name])
        drawn = ([generator.choice(values[name]) for name in names] for _ in range(TRIES))
        ways = itertools.chain([[]], single, drawn)
        return any(may_be_built(dict([*others, *chosen]).items()) for others in ways)

    values = {name: [value for value in options if in_some_way(value)] for name, options in values.items()}
    allowed = {
        frozenset(pair)
        for one, other in itertools.combinations(names, 2)
        for pair in itertools.product(values[one], values[other])
        if in_some_way(*pair)
    }
    left = dict.fromkeys(sorted(allowed, key=sorted))  # a set whose order is the same in every process

    def completed(chosen: list[Choice]) -> list[Choice]:
        """With a value of every option, of those that fit the one that is in most pairs that are left."""
        given = {name for name, _ in chosen}
        for name in generator.sample(names, len(names)):
            fitting = [value for value in values[name] if all(frozenset([value, other]) in allowed for other in chosen)]
            if name not in given and fitting:
                scores = [sum(frozenset([value, other]) in left for other in chosen) for value in fitting]
                best = [value for value, score in zip(fitting, scores, strict=True) if score == max(scores)]
                chosen = [*chosen, generator.choice(best)]
        return chosen

    while left:
        pair = list(next(iter(left)))
        ways = (completed(pair) for _ in range(TRIES))
        chosen = next((way for way in ways if may_be_built(way)), pair)
        for covered in itertools.combinations(chosen, 2):
            left.pop(frozenset(covered), None)
        found.append(configuration(chosen))
    return found


def built(objective: str, configuration: Configuration, *, to_train: bool = False) -> tuple[Any, str]:
    """The objective of a configuration and nothing, or None and why it is refused."""
    arguments: dict[str, Any] = {}
    try:
        for name, value in configuration.items():
            if name not in STEP:
                # an estimator keeps what it measures in training
                make = _bound if name == "derivative" and to_train else _bound_once
                arguments |= make(objective, name, json.dumps(value))
        return OBJECTIVES[objective](**arguments), ""
    except (ValueError, TypeError) as error:
        return None, str(error)


def _bound(objective: str, name: str, value: str) -> dict[str, Any]:
    """An argument of an objective made of its value in a file."""
    return bind_arguments(OBJECTIVES[objective], {name: json.loads(value)}, "objective")


_bound_once = functools.cache(_bound)
"""Checking a value takes far longer than making an objective."""


def network(seed: int) -> nn.Module:
    made = MLP(dim=DIM, width=8, depth=1, frequency_size=4, num_classes=CLASSES, guidance_input=True)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return made


def outcome(objective: str, configuration: Configuration) -> Outcome:
    """What comes of two steps of a configuration."""
    made, refusal = built(objective, configuration, to_train=True)
    if made is None:
        return Outcome("refused", refusal)
    try:
        losses, norms = trained(made, **{name: configuration.get(name, values[0]) for name, values in STEP.items()})
    except Exception as error:  # whatever it is, it is the result
        return Outcome("failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    largest = max(losses, key=abs)
    if not all(map(math.isfinite, losses)):
        return Outcome("failed", "a loss is not finite")
    if not all(map(math.isfinite, norms)):
        return Outcome("failed", "a gradient is not finite")
    if abs(largest) > LARGEST_LOSS:
        kind = "large" if may_be_large(objective, configuration) else "failed"
        return Outcome(kind, f"a loss is above {LARGEST_LOSS:g}", largest)
    return Outcome("ok", loss=largest)


def may_be_large(objective: str, configuration: Configuration) -> bool:
    """Whether nothing bounds what transports amplify by (``Objective``, ``clip``; ``TiM``, ``B/B'``).

    Fakes of the self-adversarial term never have a clip, and as states of ``ve`` they are as large as sigma.
    """
    transports = (
        "ve",
        "vp",
        "edm",
        *(("trigflow",) if objective in ("alpha_flow", "improved_mean_flow", "mean_flow", "tim") else ()),
    )
    if configuration.get("transport") == "ve" and configuration.get("self_adversarial") is not None:
        return True
    return configuration.get("transport") in transports and configuration.get("clip") is None


def trained(objective: Any, precision: str, ema: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Losses and norms of the gradients of two steps."""
    student, teacher = network(0), network(1).requires_grad_(False)
    cast = None if "cast" not in ema else getattr(torch, ema["cast"])
    average = Ema(student, ema["decay"], cast=cast)
    learned = list(objective.state().parameters())
    optimizer = torch.optim.AdamW([*student.parameters(), *learned], lr=1e-3)
    step = TrainStep(
        student, objective, optimizer, average, seed=0, autocast=getattr(torch, precision), teacher=teacher,
        null_cond=torch.tensor([CLASSES]),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(BATCH, DIM, generator=generator), torch.arange(BATCH) % CLASSES
    results = [step(number, x, labels, want_grad_norm=True) for number in range(STEPS)]
    return [float(result.loss) for result in results], [float(result.grad_norm) for result in results]


def summarised(outcomes: Iterable[tuple[Configuration, Outcome]]) -> dict[str, Any]:
    """Counts by kind and by reason, numbers left out of it, and one configuration for each reason of a failure."""
    counts: collections.Counter[str] = collections.Counter()
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    examples: dict[str, Any] = {}
    largest = 0.0
    for configuration, came in outcomes:
        counts[came.kind] += 1
        if came.kind == "large":
            largest = max(largest, abs(came.loss))
        elif came.reason:
            reason = re.sub(r"\b\d+(\.\d+)?(e[+-]?\d+)?\b", "N", came.reason)
            reasons[came.kind][reason] += 1
            if came.kind == "failed":
                examples.setdefault(reason, {"configuration": configuration, "loss": came.loss})
    return {
        "counts": dict(counts),
        **{kind: dict(counter.most_common()) for kind, counter in reasons.items()},
        **({"examples": examples} if examples else {}),
        **({"largest": largest} if largest else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--objective", choices=list(OBJECTIVES))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny
    result: dict[str, Any] = {"environment": environment.describe(torch.device("cpu"))}
    found, begin = {}, time.perf_counter()
    for name in OBJECTIVES if options.objective is None else [options.objective]:
        configurations = pairs(name) if options.pairs else list(whole(name))
        outcomes = []
        for number, configuration in enumerate(configurations, 1):
            outcomes.append((configuration, outcome(name, configuration)))
            if number % 500 == 0 and number < len(configurations):
                print(f"{time.perf_counter() - begin:6.0f} s  {name}: {number} of {len(configurations)}", flush=True)
        found[name] = summarised(outcomes)
        print(f"{time.perf_counter() - begin:6.0f} s  {name}: {found[name]['counts']}", flush=True)
        for reason, count in found[name].get("failed", {}).items():
            print(f"          failed {count}: {reason}, such as {found[name]['examples'][reason]}", flush=True)
    result["objectives"] = found
    if options.objective is None:
        name = "configuration_pairs" if options.pairs else "configurations"
        print(f"written to {environment.write(name, result)}")
    sys.exit(any("failed" in of_one for of_one in found.values()))


if __name__ == "__main__":
    main()
