"""Attention of image tokens to the states of a text encoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rcgm.checks import boolean, whole_number
from rcgm.models.norms import HeadNorm

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to text, by the kernel that torch chooses; masks are not for the others.

    Args:
        hidden_size: width of tokens and text, a multiple of ``num_heads``.
        num_heads: number of heads.
        qk_norm: see :class:`~rcgm.models.attention.SelfAttention`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is not positive, or ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        whole_number("hidden_size", hidden_size)
        whole_number("num_heads", num_heads)
        boolean("qk_norm", qk_norm)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}")
        self.head_size = hidden_size // num_heads
        self.q = nn.Linear(hidden_size, hidden_size)
        self.kv = nn.Linear(hidden_size, 2 * hidden_size)
        self.q_norm = HeadNorm(self.head_size) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_size) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """What each token takes from the text.

        Args:
            x: ``[B, T, hidden_size]``, any floating dtype.
            text: ``[B, L, hidden_size]``, any floating dtype.
            mask: bool ``[B, L]``, true for tokens of the text; None if all are.

        Returns:
            ``[B, T, hidden_size]`` in the weights' dtype or autocast's.
        """
        q = self.q(x.to(self.q.weight.dtype)).unflatten(2, (-1, self.head_size))
        k, v = self.kv(text.to(self.kv.weight.dtype)).unflatten(2, (2, -1, self.head_size)).unbind(2)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        heads = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.proj(heads.transpose(1, 2).flatten(2))
