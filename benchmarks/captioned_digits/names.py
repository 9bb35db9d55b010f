"""Names in the result file, which its tables read."""

__all__ = ["HELD_OUT", "MANY", "MULTI_STEP", "NAME"]

NAME = "captioned_digits"
"""Of the result file and of the figure."""
MULTI_STEP = "flow matching"
"""The model that the few-step models begin with."""
MANY = 20
"""Its sampling steps."""
HELD_OUT = "held out"
"""Group of the prompts of combinations that no training picture has; the other groups are the kinds of prompts."""
