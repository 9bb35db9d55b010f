"""What published weights of each family are called, and how they speak of time and of their prediction.

The networks of this package are given times from data (0) to noise (1). A published network is given
``rate * t + offset`` instead: the sines and cosines of the sum are a rotation of those of ``rate * t``, which the first
layer of the time's embedding takes up, as it takes up the sign of the rate; what is left of the rate is ``time_scale``.
A prediction of the other sign is turned round in the last layer. So no adapter is needed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True)
class Layout:
    """A family of published weights.

    Args:
        rate, offset: the published network at our time ``t`` is given ``rate * t + offset``.
        sign: of the published prediction in the prediction of ``transport``.
        transport: key of the transport, of ``rcgm.transports``, whose prediction results.
        ignored: names, or beginnings of names, of tensors that are computed here instead.
    """

    rate: float
    offset: float
    sign: float
    transport: str
    ignored: tuple[str, ...] = ("pos_embed",)


LAYOUTS: Mapping[str, Layout] = {
    # Discrete steps 0 to 999 of a process whose variance grows linearly from 1e-4 to 0.02, of which VP is the limit;
    # the prediction is the noise. Step i has the noise of our t = (i + 1) / 1000.
    "dit": Layout(rate=1000.0, offset=-1.0, sign=1.0, transport="vp"),
    # SiT walks from noise at 0 to data at 1 and predicts data - noise.
    "sit": Layout(rate=-1.0, offset=1.0, sign=-1.0, transport="linear"),
    "lightningdit": Layout(
        rate=-1.0, offset=1.0, sign=-1.0, transport="linear", ignored=("pos_embed", "feat_rope.freqs_")
    ),
}
"""Families by name. Those of SiT and LightningDiT are the networks with linear path and velocity."""
