"""The parts of a diffusion transformer between its embeddings and its output."""

from __future__ import annotations

from torch import Tensor, nn

from rcgm.models.attention import SelfAttention
from rcgm.models.feed_forward import FEED_FORWARDS
from rcgm.models.norms import NORMS
from rcgm.models.precision import FullPrecisionLinear

__all__ = ["DiTBlock", "FinalLayer", "modulate"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens ``[B, T, C]`` scaled and shifted by ``[B, C]``."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class DiTBlock(nn.Module):
    """Attention and feed-forward, each normalised, modulated and gated by the condition (adaLN-Zero).

    Args are those of :class:`~rcgm.models.dit.DiT`.

    Source: DiT, section 3.2, "adaLN-Zero block".
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        norm: str = "layer",
        feed_forward: str = "gelu",
        attention: str = "sdpa",
        interval_aware: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](hidden_size)
        self.attn = SelfAttention(
            hidden_size, num_heads, qk_norm=qk_norm, attention=attention, interval_aware=interval_aware
        )
        self.norm2 = NORMS[norm](hidden_size)
        self.mlp = FEED_FORWARDS[feed_forward](hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), FullPrecisionLinear(hidden_size, 6 * hidden_size))

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        interval: Tensor | None = None,
    ) -> Tensor:
        """Tokens ``[B, T, hidden_size]`` and condition ``[B, hidden_size]``, both in full precision, to tokens.

        ``rotation`` and ``interval`` are those of :class:`~rcgm.models.attention.SelfAttention`.
        """
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        attended = self.attn(modulate(self.norm1(x), shift_attn, scale_attn), rotation, interval)
        x = x + gate_attn.unsqueeze(1) * attended
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Normalise, modulate, and map each token to the pixels of its patch."""

    def __init__(self, hidden_size: int, out_features: int, *, norm: str = "layer") -> None:
        super().__init__()
        self.norm_final = NORMS[norm](hidden_size)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), FullPrecisionLinear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens ``[B, T, hidden_size]`` and condition ``[B, hidden_size]`` to ``[B, T, out_features]``."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale).to(self.linear.weight.dtype))
