"""Published weights of diffusion transformers, in the conventions of this package."""

from rcgm.models.published.initialise import LAYOUTS, initialise
from rcgm.models.published.weights import read_weights

__all__ = ["LAYOUTS", "initialise", "read_weights"]
