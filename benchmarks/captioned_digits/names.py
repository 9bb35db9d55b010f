"""Names in the result file, which its tables read."""

__all__ = ["GUIDANCE", "GUIDED", "HELD_OUT", "MANY", "MULTI_STEP", "NAME"]

NAME = "captioned_digits"
"""Of the result file and of the figure."""
MULTI_STEP = "flow matching"
"""The model that the few-step models begin with."""
GUIDED = "flow matching, guided"
"""The same model, sampled with guidance."""
GUIDANCE = 1.5
"""Its scale, which few-step models learn to have in one evaluation a step."""
MANY = 20
"""Sampling steps of both."""
HELD_OUT = "held out"
"""Group of the prompts of combinations that no training picture has; the other groups are the kinds of prompts."""
