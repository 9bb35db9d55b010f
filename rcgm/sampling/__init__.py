"""Samplers: one file each.

A new one is a function ``(network, noise, cond, *, steps, **options)`` on a ``Run``, and a line in ``SAMPLERS``.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rcgm.sampling.any_step import sample_any_step
from rcgm.sampling.consistency import sample_consistency
from rcgm.sampling.mix import sample_mix
from rcgm.sampling.ode import sample_heun, sample_ode
from rcgm.sampling.run import Options
from rcgm.sampling.ucgm import sample_ucgm

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "any_step": sample_any_step,
    "consistency": sample_consistency,
    "euler": sample_ode,
    "heun": sample_heun,
    "mix": sample_mix,
    "ucgm": sample_ucgm,
    "ucgm_multi": partial(sample_ucgm, style="multi", extrapolation=1 / 3),
}
"""Samplers, by their name in a configuration and on the command line."""

__all__ = [
    "SAMPLERS",
    "Options",
    "sample_any_step",
    "sample_consistency",
    "sample_heun",
    "sample_mix",
    "sample_ode",
    "sample_ucgm",
]
