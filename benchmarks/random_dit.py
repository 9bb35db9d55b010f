"""The random network of math.md section 6, with the roundings that one may want to change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rounding = Callable[[Tensor], Tensor]
WIDTH, HEADS, DEPTH, TOKENS, CHANNELS = 384, 6, 12, 64, 16


class RandomDiT(nn.Module):
    """12 layers, width 384, 6 heads, adaLN from SiLU, 64 tokens of 16 channels, all matrices from N(0, 0.05^2).

    Args:
        time_scale: what the times are multiplied by before their sinusoids: 1 ("low") or 10 ("high").
        seed: of the weights.
        stream: format of the tokens that the layers add to; None leaves them float32.
        full_condition: whether all that is made from the times stays out of autocast.
        rounding: applied to what goes into and comes out of every matrix, for formats and roundings that are emulated.
    """

    def __init__(
        self,
        time_scale: float,
        *,
        seed: int = 0,
        stream: torch.dtype | None = None,
        full_condition: bool = False,
        rounding: Rounding | None = None,
    ) -> None:
        super().__init__()
        self.time_scale, self.stream, self.full_condition, self.rounding = time_scale, stream, full_condition, rounding
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.positions = nn.Parameter(torch.empty(TOKENS, WIDTH))
        self.t_embed, self.r_embed = (
            nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )
        self.layers = nn.ModuleList(nn.ModuleDict({
            "modulation": nn.Linear(WIDTH, 6 * WIDTH), "qkv": nn.Linear(WIDTH, 3 * WIDTH),
            "out": nn.Linear(WIDTH, WIDTH), "up": nn.Linear(WIDTH, 4 * WIDTH), "down": nn.Linear(4 * WIDTH, WIDTH),
        }) for _ in range(DEPTH))  # fmt: skip
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.head = nn.Linear(WIDTH, CHANNELS)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.05, generator=generator)
                else:
                    parameter.zero_()

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: None = None) -> Tensor:
        """``[B, 64, 16]`` and times ``[B]`` to ``[B, 64, 16]``."""
        with torch.autocast(x.device.type, enabled=False) if self.full_condition else contextlib.nullcontext():
            condition = F.silu(self._embedded(self.t_embed, t) + self._embedded(self.r_embed, r))
            shifts = [self._linear(layer["modulation"], condition)[:, None].chunk(6, -1) for layer in self.layers]
            last_shift, last_scale = self._linear(self.modulation, condition)[:, None].chunk(2, -1)
        tokens = self._linear(self.embed, x) + self.positions
        for layer, (shift, scale, gate, mlp_shift, mlp_scale, mlp_gate) in zip(self.layers, shifts, strict=True):
            if self.stream is not None:
                tokens = tokens.to(self.stream)
            normed = F.layer_norm(tokens, (WIDTH,)) * (1 + scale) + shift
            q, k, v = self._linear(layer["qkv"], normed).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            tokens = tokens + gate * self._linear(layer["out"], attended)
            if self.stream is not None:
                tokens = tokens.to(self.stream)
            normed = F.layer_norm(tokens, (WIDTH,)) * (1 + mlp_scale) + mlp_shift
            tokens = tokens + mlp_gate * self._linear(layer["down"], F.gelu(self._linear(layer["up"], normed)))
        return self._linear(self.head, F.layer_norm(tokens, (WIDTH,)) * (1 + last_scale) + last_shift)

    def _linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        if self.rounding is None:
            return layer(x)
        return self.rounding(F.linear(self.rounding(x), layer.weight.bfloat16().to(x.dtype)))

    def _embedded(self, embed: nn.Sequential, time: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10_000) / 128 * torch.arange(128, dtype=time.dtype, device=time.device))
        phases = self.time_scale * time[:, None] * frequencies
        hidden = self._linear(embed[0], torch.cat([phases.cos(), phases.sin()], 1))
        return self._linear(embed[2], F.silu(hidden))


def to_nearest(x: Tensor) -> Tensor:
    """float32 rounded to the nearest bfloat16."""
    return x.bfloat16().float()


class Dithered:
    """Stochastic rounding of float32 to bfloat16: up with the probability that makes it right on average.

    Args:
        shared: give the two halves of a batch, the points before and after, the same random bits.
        seed: of the random bits.
    """

    def __init__(self, *, shared: bool, seed: int = 0) -> None:
        self._shared = shared
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        shape = (x.shape[0] // 2, *x.shape[1:]) if self._shared else x.shape
        bits = torch.randint(0, 1 << 16, shape, generator=self._generator, dtype=torch.int32)
        if self._shared:
            bits = torch.cat([bits, bits])
        return ((x.contiguous().view(torch.int32) + bits) & ~0xFFFF).view(torch.float32)
