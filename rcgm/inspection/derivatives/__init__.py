"""How far the derivatives along the path of a network can be trusted, and what objectives can be trained with them."""

from rcgm.inspection.derivatives.check import GAPS, RATIOS, STEPS, check_derivatives
from rcgm.inspection.derivatives.points import NUMBER_FORMATS
from rcgm.inspection.derivatives.report import DerivativeReport, DerivativeRow, DifferenceRow, FormatReport
from rcgm.inspection.derivatives.verdict import BIAS_LIMIT, GROUPS, NOISE_LIMIT, Allowance

__all__ = [
    "BIAS_LIMIT",
    "GAPS",
    "GROUPS",
    "NOISE_LIMIT",
    "NUMBER_FORMATS",
    "RATIOS",
    "STEPS",
    "Allowance",
    "DerivativeReport",
    "DerivativeRow",
    "DifferenceRow",
    "FormatReport",
    "check_derivatives",
]
