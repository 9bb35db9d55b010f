"""Multi-head self attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rcgm.models._checks import boolean, positive_int

__all__ = ["SelfAttention"]


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension, with its gain in the dtype of the input.

    A gain in another dtype, as autocast leaves it, keeps torch from its fused kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` to the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Multi-head self attention, through :func:`torch.nn.functional.scaled_dot_product_attention`.

    Which kernel runs is torch's choice. Forward-mode AD needs the one that has a derivative:
    ``with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH): torch.func.jvp(...)``.

    Args:
        hidden_size: width of the tokens, a multiple of ``num_heads``.
        num_heads: number of heads.
        qk_norm: normalise queries and keys per head by their root mean square, with a learned gain, which bounds the
            logits (Henry et al. 2020; Dehghani et al. 2023).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is not positive, or ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        positive_int("hidden_size", hidden_size)
        positive_int("num_heads", num_heads)
        boolean("qk_norm", qk_norm)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        head_size = hidden_size // num_heads
        self.q_norm = HeadNorm(head_size, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_size, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, T, hidden_size]``, any floating dtype, to the same shape in the weights' dtype or autocast's."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x.to(self.qkv.weight.dtype)).view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Autocast may hand the norms back in float32, and the fused kernels need one dtype for all three.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        heads = F.scaled_dot_product_attention(q, k, v)
        return self.proj(heads.transpose(1, 2).reshape(batch, tokens, width))
