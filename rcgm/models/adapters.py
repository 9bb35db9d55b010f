"""Networks with other signatures, as networks ``(x, t, r, cond)`` that predict the average velocity.

An adapter is a module around the network, so that parameters, devices, EMA and sharding see through it. Those with the
signature ``(x, t, r, cond)`` inside compose: a published SiT is ``ReversedTime(TimeOnly(sit))``. The attribute
``num_classes`` (None: no class labels) is taken over from the network, and may be set where the network has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rcgm.checks import positive_float

__all__ = ["CallSignature", "ReversedTime", "TimeAndInterval", "TimeOnly"]


class _Adapter(nn.Module):
    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(f"network must be callable, got {type(network).__name__}")
        self.network = network
        # Training and sampling read there which class index means no class.
        self.num_classes = getattr(network, "num_classes", None)


class TimeOnly(_Adapter):
    """A network that knows no ``r``: calls ``network(x, t, cond)``, and ``network(x, t)`` where ``cond`` is None.

    Its prediction is the instantaneous velocity whatever ``r``: what a flow-matching teacher gives.

    Raises:
        TypeError: ``network`` is not callable.
    """

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """``x`` ``[B, ...]``, ``t`` and ``r`` ``[B]`` to a tensor of the shape of ``x``; ``r`` is ignored."""
        return self.network(x, t) if cond is None else self.network(x, t, cond)


class TimeAndInterval(_Adapter):
    """A network that is given the interval: calls ``network(x, t, t - r, cond)``, without ``cond`` where that is None.

    Raises:
        TypeError: ``network`` is not callable.
    """

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """``x`` ``[B, ...]``, ``t`` and ``r`` ``[B]`` to a tensor of the shape of ``x``."""
        return self.network(x, t, t - r) if cond is None else self.network(x, t, t - r, cond)


class ReversedTime(_Adapter):
    """A network ``(x, t, r, cond)`` whose time runs from noise (0) to data (1), as that of SiT.

    Returns ``-network(x, 1 - t, 1 - r, cond)``: with the time turned round, the velocity it predicts is ``x - z``.

    Raises:
        TypeError: ``network`` is not callable.
    """

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """``x`` ``[B, ...]``, ``t`` and ``r`` ``[B]`` to a tensor of the shape of ``x``."""
        return -self.network(x, 1 - t, 1 - r, cond)


class CallSignature(_Adapter):
    """A network that wants its arguments under other names, in another order or at another scale of time.

    The values to pass are named ``"x"``, ``"t"``, ``"r"``, ``"interval"`` (``t - r``), ``"cond"``, and ``"cond.NAME"``
    for entry NAME of a condition that is a mapping. What the network returns may be a tensor, a tuple or list that
    begins with it, or an object that holds it as ``.sample``.

    Args:
        network: any callable.
        positional: names of the values to pass by position, in order.
        keyword: the network's keyword to the name of the value to pass.
        constants: further keywords, passed as they are.
        time_scale: multiplies ``t``, ``r`` and the interval.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument names an unknown value or ``time_scale`` is not positive.

    Example, a text-to-image transformer of diffusers:
        >>> network = CallSignature(
        ...     transformer,
        ...     positional=("x", "t"),
        ...     keyword={"encoder_hidden_states": "cond.text", "pooled_projections": "cond.pooled"},
        ...     time_scale=1000.0,
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        network: Callable[..., Any],
        *,
        positional: Sequence[str] = ("x", "t", "r", "cond"),
        keyword: Mapping[str, str] | None = None,
        constants: Mapping[str, Any] | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__(network)
        if isinstance(positional, str) or not isinstance(positional, Sequence):
            raise TypeError(f"positional must be a sequence of names, got {positional!r}")
        for name, mapping in (("keyword", keyword), ("constants", constants)):
            if mapping is not None and not isinstance(mapping, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(mapping).__name__}")
        self.positional = tuple(positional)
        self.keyword = dict(keyword or {})
        self.constants = dict(constants or {})
        self.time_scale = positive_float("time_scale", time_scale)
        for name, values in (("positional", self.positional), ("keyword", self.keyword.values())):
            for value in values:
                _check_value_name(name, value)
        twice = sorted(self.keyword.keys() & self.constants.keys())
        if twice:
            raise ValueError(f"keyword and constants must not share names, both have {', '.join(twice)}")

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """``x`` ``[B, ...]``, ``t`` and ``r`` ``[B]`` to a tensor of the shape of ``x``.

        Raises:
            TypeError: ``cond`` is no mapping where an entry of it is wanted, or the network returned no tensor.
            ValueError: ``cond`` lacks an entry, or the network returned another shape.
        """
        scale = self.time_scale
        values = {"x": x, "t": t * scale, "r": r * scale, "interval": (t - r) * scale, "cond": cond}

        def value(name: str) -> Any:
            return _entry(cond, name[len("cond.") :]) if name.startswith("cond.") else values[name]

        keywords = {keyword: value(name) for keyword, name in self.keyword.items()}
        output = _tensor_of(self.network(*map(value, self.positional), **keywords, **self.constants))
        if output.shape != x.shape:
            raise ValueError(f"network must return the shape of x, {list(x.shape)}, got {list(output.shape)}")
        return output


def _check_value_name(argument: str, name: str) -> None:
    known = ("x", "t", "r", "interval", "cond")
    if not isinstance(name, str):
        raise TypeError(f"{argument} must name values by strings, got {name!r}")
    if name not in known and not (name.startswith("cond.") and len(name) > len("cond.")):
        raise ValueError(f"{argument} must name values among {', '.join(known)} and cond.NAME, got {name!r}")


def _entry(cond: Any, name: str) -> Any:
    if not isinstance(cond, Mapping):
        raise TypeError(f"cond must be a mapping with the entry {name!r}, got {type(cond).__name__}")
    if name not in cond:
        raise ValueError(f"cond must have the entry {name!r}, got {', '.join(map(str, cond)) or 'none'}")
    return cond[name]


def _tensor_of(output: Any) -> Tensor:
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    elif hasattr(output, "sample") and not isinstance(output, Tensor):
        output = output.sample
    if not isinstance(output, Tensor):
        raise TypeError(
            "network must return a tensor, a tuple or list that begins with one, or an object with a tensor as "
            f".sample, got {type(output).__name__}"
        )
    return output
