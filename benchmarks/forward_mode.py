"""MeanFlow by Jacobian-vector products, in the forms that compete with finite differences.

The package's own ``jvp`` estimator is the plain one among them: a forward-mode pass without gradient beside the
student's forward. Published MeanFlow code differentiates through the student's own forward instead, in one pass with
gradient. Here are both, as functorch transform, as dual numbers, compiled block by block, and with attention that has a
flash kernel for forward mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as fw
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.engine.combination import PREDICTION, term
from rcgm.models import DiT
from rcgm.objectives import MeanFlow, ObjectiveOutput
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual

Network = Callable[..., Tensor]
Triple = tuple[Tensor, Tensor, Tensor]
Derivative = Callable[[Network, Triple, Triple, Any], tuple[Tensor, Tensor]]
"""``(network, (x, t, r), their tangents, cond)`` to the network's value and its derivative."""

FLASH_HEAD_SIZES = (16, 32, 64, 128, 256)


def by_transform(network: Network, point: Triple, tangents: Triple, cond: Any) -> tuple[Tensor, Tensor]:
    """``torch.func.jvp`` of the whole network."""
    return torch.func.jvp(lambda x, t, r: network(x, t, r, cond), point, tangents)


def by_dual_numbers(network: Network, point: Triple, tangents: Triple, cond: Any) -> tuple[Tensor, Tensor]:
    """``torch.autograd.forward_ad``, without a transform."""
    with fw.dual_level():
        dual = [fw.make_dual(value, tangent) for value, tangent in zip(point, tangents, strict=True)]
        value, derivative = fw.unpack_dual(network(*dual, cond))
        return value, derivative


def by_block(network: DiT, compiler: str) -> Derivative:
    """``torch.func.jvp`` of a DiT part by part, that of each block compiled.

    A compiled block inside one jvp of the whole would run uncompiled (see ``benchmarks.limits``), and compiling the
    whole takes as many times longer as there are blocks.
    """
    along = torch.compile(_block_along, backend=compiler, dynamic=False)

    def embedded(x: Tensor, t: Tensor, r: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        tokens = network.x_embedder(x)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        condition = network.t_embedder(t) + network.interval_embedder(t - r)
        if network.y_embedder is not None:
            condition = condition + network.y_embedder(cond)
        return tokens + network.pos_embed.to(tokens.dtype), condition

    def derivative(_: Network, point: Triple, tangents: Triple, cond: Any) -> tuple[Tensor, Tensor]:
        values, derivatives = torch.func.jvp(lambda x, t, r: embedded(x, t, r, cond), point, tangents)
        (tokens, condition), (tokens_tangent, condition_tangent) = values, derivatives
        for block in network.blocks:
            tokens, tokens_tangent = along(block, tokens, condition, tokens_tangent, condition_tangent)
        return torch.func.jvp(
            lambda tokens, condition: network.image_of(network.final_layer(tokens, condition)),
            (tokens, condition), (tokens_tangent, condition_tangent),
        )  # fmt: skip

    return derivative


def _block_along(
    block: nn.Module, tokens: Tensor, condition: Tensor, tokens_tangent: Tensor, condition_tangent: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.func.jvp(block, (tokens, condition), (tokens_tangent, condition_tangent))


@dataclass(frozen=True)
class JvpMeanFlow:
    """MeanFlow with the derivative by forward mode, to be called as an objective is.

    Args:
        objective: its times, transport and loss.
        derivative: how the derivative is taken.
        gradient: through the student's own forward, one pass, of which the derivative is then detached (as published);
            else a pass of its own without gradient.
        attention: the backend of torch's attention within the derivative; None leaves the choice to torch.
    """

    objective: MeanFlow
    derivative: Derivative
    gradient: bool
    attention: SDPBackend | None = SDPBackend.MATH

    def __call__(
        self, student: Network, x: Tensor, cond: Any = None, *, generator: torch.Generator | None = None, **_: Any
    ) -> ObjectiveOutput:
        times = self.objective.times.sample(x.shape[0], generator=generator, device=x.device)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x_t, velocity, target = self.objective.transport.path(x, z, times.t)
        point = Point(x, z, x_t, velocity, target, times.t, times.r)
        where = (x_t, times.t, times.r)
        tangents = (velocity, torch.ones_like(times.t), torch.zeros_like(times.r))
        chosen = contextlib.nullcontext() if self.attention is None else sdpa_kernel(self.attention)
        with chosen, torch.set_grad_enabled(self.gradient):
            prediction, derivative = self.derivative(student, where, tangents, cond)
        if not self.gradient:
            prediction = student(*where, cond)
        value = PREDICTION - term(target) + (times.t - times.r) * term(derivative.detach())
        loss = self.objective.losses(prediction, Residual(value), point).sum()
        return ObjectiveOutput(loss, prediction.detach(), times.t, times.r, 1, 1)


def flash_jvp_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of ``[B, T, H, D]`` by ``jvp-flash-attention`` where there are tangents, by torch's where not.

    Heads whose size the kernel does not take (72 in XL) are filled up with zeros to the next one that it takes, which
    changes no result.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    if fw.unpack_dual(q).tangent is None:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    from jvp_flash_attention.jvp_attention import JVPAttn

    size = q.shape[3]
    filled = next(known for known in FLASH_HEAD_SIZES if known >= size)
    q, k, v = (F.pad(part, (0, filled - size)) for part in (q, k, v))
    return JVPAttn.fwd_dual(q, k, v, sm_scale=size**-0.5)[..., :size].transpose(1, 2)


def use_flash_jvp(network: DiT) -> None:
    """Give the blocks of ``network`` the attention above, with the weights that they have."""
    for block in network.blocks:
        block.attn.attend = flash_jvp_attention


def flash_jvp_missing() -> str | None:
    """Why the flash kernel cannot run here, or None."""
    try:
        import jvp_flash_attention.jvp_attention  # noqa: F401
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    return None if torch.cuda.is_available() else "the kernel needs a GPU"
