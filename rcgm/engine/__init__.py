"""The engine: answers an objective's queries in as few waves as their dependencies allow.

A *wave* is one batch of forwards without gradient; a later wave depends on the answers of an earlier one. An objective
is a generator that yields ``Query`` and ``Derivative``. An ``Engine`` answers them with the networks. An ``Estimator``
says which forwards a derivative is made of.
"""

from rcgm.engine.combination import Combination, term
from rcgm.engine.conditions import Condition
from rcgm.engine.cuda_graphs import GraphedNetwork
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.networks import Network, module_of, predict
from rcgm.engine.queries import STUDENT, TARGET, TEACHER, Derivative, Queries, Query, Tangent
from rcgm.engine.waves import Engine

__all__ = [
    "STUDENT",
    "TARGET",
    "TEACHER",
    "Combination",
    "Condition",
    "Derivative",
    "Engine",
    "Estimator",
    "GraphedNetwork",
    "Network",
    "Plan",
    "Queries",
    "Query",
    "Tangent",
    "module_of",
    "predict",
    "term",
]
