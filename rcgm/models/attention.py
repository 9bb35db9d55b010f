"""Multi-head self attention."""

from __future__ import annotations

from torch import Tensor, nn

from rcgm.checks import boolean, whole_number
from rcgm.models.attention_backends import attention_kernel
from rcgm.models.norms import HeadNorm
from rcgm.models.positions import rotate
from rcgm.models.precision import FullPrecisionLinear

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Multi-head self attention.

    With ``attention="sdpa"`` torch chooses the kernel. Forward-mode AD needs the one that has a derivative:
    ``with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH): torch.func.jvp(...)``.

    Args:
        hidden_size: width of the tokens, a multiple of ``num_heads``.
        num_heads: number of heads.
        qk_norm: normalise queries and keys per head by their root mean square, with a learned gain, which bounds the
            logits (Henry et al. 2020; Dehghani et al. 2023).
        attention: a key of :data:`~rcgm.models.attention_backends.BACKENDS`.
        interval_aware: add a linear map of the interval's embedding to queries, keys and values (the published code of
            TiM, ``distance_aware``).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is not positive, ``num_heads`` does not divide ``hidden_size``, or there is no such attention
            here.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        qk_norm: bool = False,
        attention: str = "sdpa",
        interval_aware: bool = False,
    ) -> None:
        super().__init__()
        whole_number("hidden_size", hidden_size)
        whole_number("num_heads", num_heads)
        boolean("qk_norm", qk_norm)
        boolean("interval_aware", interval_aware)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}")
        self.num_heads = num_heads
        self.attend = attention_kernel(attention)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        # A few rows made from the times, so in full precision, as all of those.
        self.qkv_interval = FullPrecisionLinear(hidden_size, 3 * hidden_size, bias=False) if interval_aware else None
        head_size = hidden_size // num_heads
        self.q_norm = HeadNorm(head_size) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_size) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None, interval: Tensor | None = None
    ) -> Tensor:
        """Attention of the tokens to one another.

        Args:
            x: ``[B, T, hidden_size]``, any floating dtype.
            rotation: cosines and sines of :func:`~rcgm.models.positions.rotations_2d`, for rotary positions.
            interval: ``[B, hidden_size]``, embedding of the interval; needed if ``interval_aware``, and only then used.

        Returns:
            ``[B, T, hidden_size]`` in the weights' dtype or autocast's.
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(x.to(self.qkv.weight.dtype))
        if self.qkv_interval is not None:
            qkv = (qkv + self.qkv_interval(interval).unsqueeze(1)).to(qkv.dtype)
        q, k, v = qkv.view(batch, tokens, 3, self.num_heads, width // self.num_heads).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        # Autocast may hand the norms back in float32, and the fused kernels need one dtype for all three.
        heads = self.attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(heads.reshape(batch, tokens, width))
