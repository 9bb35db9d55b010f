"""The values of each option of an objective that its configurations are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcgm.config.components import parameters_of
from rcgm.derivatives import ESTIMATORS
from rcgm.objectives import OBJECTIVES, SAMPLE_WEIGHTS
from rcgm.transports import TRANSPORTS

STEP: dict[str, Sequence[Any]] = {
    "precision": ("float32", "bfloat16"),
    "ema": ({"decay": 0.9}, {"decay": 0.0}, {"decay": 0.9, "cast": "bfloat16"}, {"decay": 0.9, "cast": "float16"}),
}
"""What a step takes beside the objective."""

MAIN = ("transport", "derivative", "guidance", "target_dtype")

NETWORKS = ("student", "target")
COMMON: dict[str, Sequence[Any]] = {
    "transport": tuple(TRANSPORTS),
    "derivative": (
        *ESTIMATORS,
        {"name": "central", "order": 4, "step": 0.05},
        {"name": "auto", "evaluations": 4, "every": 1},
    ),
    "supervision": ("data", "teacher"),
    "guidance": (
        None,
        {"name": "enhanced", "scale": 0.5},
        {"name": "enhanced", "scale": 2.0, "network": "teacher"},
        {"name": "ucgm", "scale": 0.5},
        {"name": "ucgm_teacher", "scale": 2.0},
        {"name": "tim", "scale": 0.75, "both_times": True},
        {"name": "mean_flow", "scale": 0.9, "data": 0.2, "network": "student", "t_min": 0.2, "t_max": 0.8},
        {"name": "decm", "scale": 0.5},
        {"name": "input", "scale": 4.0, "power": 0.5},
    ),
    "target_dtype": (None, "float32", "float16", "bfloat16"),
    "times": (
        {},
        *(
            # what is left out would be that of the objective's own times
            {"distribution": "uniform", "equal": 0.0, "zero": 0.0, "short": 0.0, "near": 1.0, "shift": 1.0, **times}
            for times in (
                {"distribution": "uniform", "interval": "hierarchical", "equal": 0.25, "near": 0.05},
                {"distribution": "logit_normal", "interval": "sorted", "equal": 0.5, "zero": 0.25, "shift": 3.0},
                {"distribution": "beta", "a": 0.8, "b": 1.0, "interval": "zero"},
                {"distribution": "uniform", "interval": "hierarchical", "zero": 0.25, "short": 0.5},
                {"distribution": "arctan", "a": -1.0, "b": 1.4, "interval": "hierarchical", "zero": 0.5},
                {"distribution": "segments", "interval": "zero", "segments": 4},
                {"distribution": "uniform", "interval": "dyadic", "equal": 0.25, "levels": 3},
                {"distribution": "uniform", "interval": "equal"},
                {"interval": "independent", "r_distribution": "beta", "r_a": 1.0, "r_b": 0.5, "equal": 0.25},
            )
        ),
    ),
    "clip": (None, 1.0),
    "metric": tuple(
        {"c": 1.0, "alpha": 1.0, "cosine": 0.0, "cosine_dim": "channels", **metric}
        for metric in (
            {"name": "l2"},
            {"name": "l2", "cosine": 1.0},
            {"name": "l2", "cosine": 1.0, "cosine_dim": "sample"},
            {"name": "pseudo_huber", "c": 0.0},
            {"name": "pseudo_huber", "c": 5.0, "cosine": 0.5},
            {"name": "barron", "alpha": -2.0},
            {"name": "barron_reweighting", "alpha": 0.5},
        )
    ),
    "normalize": (None, 0.1),
    "normalize_scale": (None, 2.0),
    "reduce": ("mean", "sum"),
    # whole mappings: what is left out would be that of the objective's own
    "adaptive": (
        None,
        {"power": 1.0, "eps": 1e-3, "of": "residual"},
        {"power": 0.5, "eps": 1e-2, "of": "residual"},
        {"power": 1.0, "eps": 1e-5, "of": "loss"},
    ),
    "sample_weight": (None, *SAMPLE_WEIGHTS),
    "label_dropout": (0.0, 0.5),
}
RECURSIVE = {
    "dt": (0.01, 0.2), "alpha": (None, 0.1, 1.0), "network": NETWORKS, "base": (*NETWORKS, "again"),
}  # fmt: skip
WAYS = ("rollout", "jump", "interpolant")
TERM = {"weight": 0.5, "fraction": 0.25, "clip": 1.0, "image_free": False}
TERMS = (None, TERM, {**TERM, "fraction": 0.5, "clip": None}, {**TERM, "image_free": True})
OWN: dict[str, dict[str, Sequence[Any]]] = {
    "alpha_flow": {
        **RECURSIVE, "dt": (0.01,), "alpha": (0.1, 1.0, {"end": 1, "floor": 0.05}), "limit": (True, False),
        "order": (1, 2, 0), "points": WAYS, "self_adversarial": TERMS,
    },
    "consistency": {
        **RECURSIVE, "order": (1,), "points": ("rollout",), "segments": (None, [2, 8]), "curriculum_steps": (4,),
        "self_adversarial": (None,),
    },
    "decm": {"near": ({}, {"near": 0.5}), "every": (1, 2), "start_weight": (1.0, 0.0), "end_weight": (1.0, 0.0)},
    "facm": {"relaxation": (0.5, 4.0)},
    "flow_matching": {},
    "improved_mean_flow": {"network": NETWORKS, "self_adversarial": TERMS},
    "mean_flow": {"network": NETWORKS, "inputs": ("data", "guided"), "self_adversarial": TERMS},
    "rcgm": {**RECURSIVE, "order": (2, 0, 1, 4), "points": WAYS, "self_adversarial": TERMS},
    "scm": {
        "network": NETWORKS, "warmup_steps": (0, 1), "weighting": ("uniform", "inverse_tangent", "learned"),
    },
    "shortcut": {"network": NETWORKS},
    "tim": {"network": NETWORKS, "inputs": ("data", "guided"), "self_adversarial": TERMS},
    "twinflow": {**RECURSIVE, "order": (2, 1, 3), "points": WAYS, "self_adversarial": TERMS[1:]},
    "ucgm": {"network": NETWORKS, "inputs": ("data", "guided"), "consistency_ratio": (1.0, 0.0, 0.5)},
}  # fmt: skip
WITHOUT_DERIVATIVE = ("consistency", "flow_matching", "rcgm", "shortcut", "twinflow")


def options_of(objective: str) -> dict[str, Sequence[Any]]:
    """The values of each option of the configurations of an objective.

    Raises:
        ValueError: the objective takes an option of which no values are known here, or does not take one that is.
    """
    options = {**COMMON, **OWN[objective]}
    taken = set(parameters_of(OBJECTIVES[objective]))
    if set(options) != taken:
        raise ValueError(f"{objective} takes {sorted(taken - set(options))} beside what has values here")
    if objective in WITHOUT_DERIVATIVE:
        options["derivative"] = ("central",)
    return {**options, **STEP}
