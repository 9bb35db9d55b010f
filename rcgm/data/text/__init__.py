"""Encoded pairs of images and captions: their format on disk, and the data set that reads them."""

from rcgm.data.text.dataset import EncodedPairs

__all__ = ["EncodedPairs"]
