"""The common part of all samplers: checks, guidance, number formats, progress and trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.engine import Network, conditions, module_of, predict
from rcgm.engine.conditions import Condition
from rcgm.engine.formats import joined
from rcgm.transports import Linear, Transport
from rcgm_kernels import interpolate

STATE_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every sampler, given by name.

    Args:
        transport: the path that the network was trained on.
        guidance: weight w of ``F_null + w (F_cond - F_null)``; 1 is no guidance and costs nothing. Both predictions are
            made in one forward. A network that takes guidance as an input (its ``guidance_input`` is true) is told it
            instead, and costs nothing either; its w is at least 1.
        guidance_interval: times ``(low, high)`` in which guidance applies; outside of them it costs nothing.
        null_cond: the null condition for guidance, with leading dimension 1 or B; not needed by such a network.
        generator: of fresh noise, for samplers that draw some; of the device of ``noise``. Or one generator for each
            sample, so that a sample does not depend on the others: all on the CPU or all on the device of ``noise``.
        dtype: of the state between evaluations, float32 or float64; None takes that of ``noise``. The network is
            given the dtype of ``noise``.
        progress: called with the number of steps done and their total.
        trajectory: return the states of all steps, ``[S + 1, B, ...]``, the noise first and the samples last.
    """

    transport: Transport = field(default_factory=Linear)
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    null_cond: Condition = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    dtype: torch.dtype | None = None
    progress: Callable[[int, int], None] | None = None
    trajectory: bool = False


class Run:
    """The state while sampling, and predictions of the network from it.

    Args:
        network: any callable ``(x, t, r, cond) -> tensor``.
        noise: unit-normal, ``[B, ...]``, float32 or float64; the state at ``t = 1`` is ``alpha(1)`` times it.
        cond: condition of the samples.
        total: number of steps.
        options: see :class:`Options`.

    Raises:
        TypeError, ValueError: for an argument that does not fit; the message names it.
    """

    def __init__(self, network: Network, noise: Tensor, cond: Condition, total: int, options: Options) -> None:
        if not isinstance(noise, Tensor) or noise.dtype not in STATE_DTYPES:
            got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
            raise TypeError(f"noise must be a float32 or float64 tensor, got {got}")
        if noise.ndim == 0:
            raise ValueError("noise must have the shape [B, ...], got a scalar tensor")
        if options.dtype not in (None, *STATE_DTYPES):
            raise TypeError(f"dtype must be torch.float32, torch.float64 or None, got {options.dtype!r}")
        low, high = options.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval must be (low, high) within [0, 1], got {options.guidance_interval!r}")
        if not math.isfinite(options.guidance):
            raise ValueError(f"guidance must be a finite number, got {options.guidance!r}")
        batch = noise.shape[0]
        _check_generator(options.generator, batch, noise.device)
        conditions.check("cond", cond, batch)
        self._both: Condition = None
        self._told = bool(getattr(module_of(network), "guidance_input", False))
        if self._told:
            if options.guidance < 1:
                raise ValueError(f"guidance must be at least 1 as an input of the network, got {options.guidance!r}")
            told = torch.tensor([[options.guidance, low, high]], dtype=noise.dtype, device=noise.device)
            cond = conditions.with_guidance(cond, told.expand(batch, 3))
        elif options.guidance != 1:
            if cond is None or options.null_cond is None:
                raise ValueError("guidance other than 1 needs cond and null_cond, got None")
            conditions.check_null(cond, options.null_cond, batch)
            self._both = conditions.concatenate([conditions.expanded(options.null_cond, batch), cond])
        self.network, self.cond, self.options, self.total, self.done = network, cond, options, total, 0
        self._given = noise.dtype
        self.transport = options.transport
        state = noise.to(options.dtype or noise.dtype)
        largest = self.transport.alpha(torch.ones((), dtype=torch.float64))
        self.x = state.clone() if largest == 1 else state * largest.to(state.device, state.dtype)
        self.states = [self.x.clone()] if options.trajectory else []

    def times(self, time: float) -> Tensor:
        """``time`` for every sample, ``[B]``, in the dtype of the state."""
        return self.x.new_full(self.x.shape[:1], time)

    def predict(self, x: Tensor, t: float, r: float) -> Tensor:
        """The guided prediction for the interval ``[r, t]`` at ``x``, in the dtype of the state."""
        given = x.to(self._given)
        t_all, r_all = (given.new_full(given.shape[:1], time) for time in (t, r))
        low, high = self.options.guidance_interval
        if self._told or self.options.guidance == 1 or not low <= t <= high:
            return predict("sampled", self.network, given, t_all, r_all, self.cond).to(x.dtype)
        doubled = (joined([value, value]) for value in (given, t_all, r_all))
        null, full = predict("sampled", self.network, *doubled, self._both).to(x.dtype).chunk(2)
        return null + self.options.guidance * (full - null)

    def move(self, x: Tensor, prediction: Tensor, t: float, r: float) -> Tensor:
        """The state at ``r`` after a step by ``prediction`` from ``x`` at ``t``."""
        return self.transport.move(x, prediction, self.times(t), self.times(r))

    def pair(self, x: Tensor, prediction: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The data and the noise that follow from ``prediction`` at ``(x, t)``: ``x_hat, z_hat``."""
        time, transport = self.times(t).double(), self.transport
        inverse = 1 / transport.determinant(time)
        by_prediction = torch.stack([transport.alpha(time) * inverse, -transport.gamma(time) * inverse])
        by_state = torch.stack([-transport.alpha_hat(time) * inverse, transport.gamma_hat(time) * inverse])
        data, noise = interpolate(x, prediction, by_prediction, by_state).unbind(0)
        return data, noise

    def regressed(self, data: Tensor, noise: Tensor, t: float) -> Tensor:
        """The prediction at ``t`` that follows from a pair of data and noise."""
        time = self.times(t).double()
        return interpolate(data, noise, self.transport.alpha_hat(time)[None], self.transport.gamma_hat(time)[None])[0]

    def predict_as_at(self, x: Tensor, t: float, r: float, time: float) -> Tensor:
        """The data and noise predicted at ``(x, t, r)``, as a prediction at ``time``."""
        return self.regressed(*self.pair(x, self.predict(x, t, r), t), time)

    def join(self, data: Tensor, noise: Tensor, t: float) -> Tensor:
        """The state at ``t`` of a pair."""
        return self.transport.points(data, noise, self.times(t).double()[None])[0]

    def renoised(self, x: Tensor, t: float, r: float) -> Tensor:
        """``x`` at ``t`` with the fresh noise that brings it to the time ``r``: a step of the forward process."""
        times = torch.tensor([t, r], dtype=torch.float64, device=x.device)
        (data_t, data_r), (noise_t, noise_r) = self.transport.gamma(times), self.transport.alpha(times)
        kept = data_r / data_t
        # the state at t may hold noise already, at t = 0 too where alpha(0) > 0
        added = (noise_r.square() - (kept * noise_t).square()).clamp(min=0).sqrt()
        every = x.shape[:1]
        return interpolate(x, self.fresh(), added.expand(every)[None], kept.expand(every)[None])[0]

    def fresh(self) -> Tensor:
        """Fresh noise, of the shape of the state."""
        generator, like = self.options.generator, self.x
        if generator is None or isinstance(generator, torch.Generator):
            return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        rows = [torch.randn(like.shape[1:], generator=one, device=one.device, dtype=like.dtype) for one in generator]
        return torch.stack(rows).to(like.device)

    def advance(self, x: Tensor) -> None:
        """Make ``x`` the state after one more step."""
        self.x = x
        self.done += 1
        if self.options.trajectory:
            self.states.append(x.clone())
        if self.options.progress is not None:
            self.options.progress(self.done, self.total)

    def result(self, end: float) -> Tensor:
        """The samples, of a state at time ``end``; or the trajectory."""
        if end == 0:
            scale = self.transport.gamma(torch.zeros((), dtype=torch.float64))
            if scale != 1:  # a transport whose state at 0 is not the data itself
                self.x = self.x / scale.to(self.x.device, self.x.dtype)
                self.states[-1:] = [self.x] if self.states else []
        return torch.stack(self.states) if self.options.trajectory else self.x


def _check_generator(
    generator: torch.Generator | Sequence[torch.Generator] | None, batch: int, device: torch.device
) -> None:
    if generator is None:
        return
    alone = isinstance(generator, torch.Generator)
    given = [generator] if alone else list(generator)
    if not all(isinstance(one, torch.Generator) for one in given):
        raise TypeError(f"generator must be a torch.Generator or one for each sample, got {generator!r}")
    if not alone and len(given) != batch:
        raise ValueError(f"generator must be one or one for each of {batch} samples, got {len(given)}")
    allowed = {device.type} if alone else {device.type, "cpu"}
    got = sorted({one.device.type for one in given})
    if len(got) > 1 or not allowed.issuperset(got):
        raise ValueError(f"generator must be of the device of noise, {device.type}, got {', '.join(got)}")
