"""Samplers: one file each."""

from rcgm.sampling.any_step import sample_any_step

__all__ = ["sample_any_step"]
