"""The diffusion transformer that is conditioned on text, of images of any size."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rcgm.checks import one_of, positive_float, whole_number
from rcgm.models.blocks import DiTBlock, FinalLayer, modulate
from rcgm.models.checks import check_text, check_times
from rcgm.models.cross_attention import CrossAttention
from rcgm.models.embeddings import TimeEmbedder
from rcgm.models.feed_forward import FEED_FORWARDS
from rcgm.models.initial_weights import initialise_transformer
from rcgm.models.norms import NORMS, HeadNorm
from rcgm.models.patches import PatchEmbedder, join_patches
from rcgm.models.positions import rotations_2d
from rcgm.models.precision import full_precision
from rcgm.models.presets import with_preset

__all__ = ["TextDiT", "TextDiTBlock"]


class TextDiTBlock(DiTBlock):
    """A block of the diffusion transformer with attention to the text between its two parts.

    What is taken from the text is normalised but not modulated, and nothing at first. Args are those of
    :class:`~rcgm.models.blocks.DiTBlock`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, qk_norm: bool = False, norm: str = "layer", **style
    ) -> None:
        super().__init__(hidden_size, num_heads, qk_norm=qk_norm, norm=norm, **style)
        self.norm_text = NORMS[norm](hidden_size)
        self.cross_attn = CrossAttention(hidden_size, num_heads, qk_norm=qk_norm)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rotation: tuple[Tensor, Tensor],
        interval: Tensor,
        text: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Tokens ``[B, T, hidden_size]``, times ``[B, hidden_size]``, text ``[B, L, hidden_size]`` to tokens.

        ``rotation`` and ``interval`` are those of :class:`~rcgm.models.attention.SelfAttention`, ``mask`` that of
        :class:`~rcgm.models.cross_attention.CrossAttention`.
        """
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        attended = self.attn(modulate(self.norm1(x), shift_attn, scale_attn), rotation, interval)
        x = x + gate_attn.unsqueeze(1) * attended
        x = x + self.cross_attn(self.norm_text(x), text, mask)
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class TextDiT(nn.Module):
    """Diffusion transformer for text to image that predicts the average velocity over [r, t].

    The sum of an embedding of ``t`` and another of the interval ``t - r`` modulates norms and gates (adaLN-Zero), and
    nothing else does. The text comes in by cross-attention in every block. Positions are rotations of queries and keys,
    so that images may have any height and width that are multiples of ``patch_size``: one network for every shape.

    Precision is that of :class:`~rcgm.models.dit.DiT`: times and what is made of them stay in float32 at least.

    Args:
        in_channels: channels of ``x``.
        text_dim: width of the text encoder's states.
        patch_size: side of a patch.
        hidden_size: width of the tokens; a multiple of ``num_heads``, whose heads have a multiple of 4 features.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the feed-forward layers over ``hidden_size``.
        time_scale: see :class:`~rcgm.models.dit.DiT`.
        qk_norm: see :class:`~rcgm.models.attention.SelfAttention`; in both kinds of attention.
        frequency_size: number of sinusoids per time.
        norm: of the tokens, a key of :data:`~rcgm.models.norms.NORMS`.
        feed_forward: a key of :data:`~rcgm.models.feed_forward.FEED_FORWARDS`.
        interval_aware: let each block's queries, keys and values depend on the interval, as TiM does; see
            :class:`~rcgm.models.attention.SelfAttention`.
        attention: of the image to itself, a key of :data:`~rcgm.models.attention_backends.BACKENDS`.
        generator: of the initial weights; None for torch's own.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.

    Attributes:
        arguments: those of the constructor, from which the same network is built again, in values that JSON can hold.

    Source: TiM, "Model Architecture". Where the paper is silent (norm before the cross-attention, layers between text
    encoder and blocks, their initial weights) this is PixArt-alpha's way.

    Example:
        >>> network = TextDiT.from_preset("nano/2", in_channels=4, text_dim=8)
        >>> t, r = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
        >>> network(torch.randn(2, 4, 8, 12), t, r, {"text": torch.randn(2, 5, 8)}).shape
        torch.Size([2, 4, 8, 12])
    """

    conditions: ClassVar[tuple[str, ...]] = ("text",)
    """Names that a condition must have."""
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("attn.qkv", "attn.proj", "cross_attn.q", "cross_attn.kv", "cross_attn.proj"),
        *("mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w3"),
    )
    """Names of the linear layers that LoRA adapts if nobody says which."""

    def __init__(
        self,
        *,
        in_channels: int,
        text_dim: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        time_scale: float = 10.0,
        qk_norm: bool = False,
        frequency_size: int = 256,
        norm: str = "layer",
        feed_forward: str = "gelu",
        interval_aware: bool = False,
        attention: str = "sdpa",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole_number("in_channels", in_channels)
        self.text_dim = whole_number("text_dim", text_dim)
        self.patch_size = whole_number("patch_size", patch_size)
        whole_number("depth", depth)
        positive_float("mlp_ratio", mlp_ratio)
        one_of("norm", norm, NORMS)
        one_of("feed_forward", feed_forward, FEED_FORWARDS)
        if whole_number("hidden_size", hidden_size) % (4 * whole_number("num_heads", num_heads)):
            raise ValueError(
                f"hidden_size must be a multiple of 4 num_heads (positions), got {hidden_size} and {num_heads}"
            )

        self.x_embedder = PatchEmbedder(in_channels, patch_size, hidden_size)
        self.t_embedder = TimeEmbedder(hidden_size, scale=time_scale, frequency_size=frequency_size)
        self.interval_embedder = TimeEmbedder(hidden_size, scale=time_scale, frequency_size=frequency_size)
        self.text_embedder = TextEmbedder(text_dim, hidden_size)
        style = {"qk_norm": qk_norm, "norm": norm, "feed_forward": feed_forward, "interval_aware": interval_aware}
        self.blocks = nn.ModuleList(
            TextDiTBlock(hidden_size, num_heads, mlp_ratio=mlp_ratio, attention=attention, **style)
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels, norm=norm)
        self._rotations: dict[Any, tuple[Tensor, Tensor]] = {}
        self.arguments: dict[str, Any] = {
            "in_channels": in_channels,
            "text_dim": text_dim,
            "patch_size": patch_size,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "time_scale": time_scale,
            "frequency_size": frequency_size,
            "attention": attention,
            **style,
        }
        self.reset_parameters(generator)

    @classmethod
    def from_preset(cls, preset: str, **arguments: Any) -> TextDiT:
        """A network of a named size: see :meth:`~rcgm.models.dit.DiT.from_preset`."""
        return cls(**with_preset(preset, arguments))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Set weights to their initial values, in place, also after ``to_empty`` from the meta device.

        As in :class:`~rcgm.models.dit.DiT`; the last layers of the cross-attention are 0 too.
        """
        initialise_transformer(self, (self.t_embedder, self.interval_embedder), generator)
        for block in self.blocks:
            nn.init.zeros_(block.cross_attn.proj.weight)

    def reset_buffers(self) -> None:
        """There are none: positions are made for each shape of image."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The average velocity over [r, t] at ``x``.

        Args:
            x: ``[B, in_channels, H, W]``, any floating dtype, ``H`` and ``W`` multiples of ``patch_size``.
            t: ``[B]``, float32 or float64, the time of ``x`` in [0, 1].
            r: ``[B]``, float32 or float64, the time to go to, at most ``t``.
            cond: ``text`` ``[B, L, text_dim]``, any floating dtype; if not all of it is text, ``mask`` ``[B, L]``, bool
                or integers, 0 where none is.

        Returns:
            A tensor of the shape of ``x``, in the dtype of the weights or of autocast.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument has the wrong shape, or ``cond`` has no text.
        """
        self._check_image(x)
        check_times(x.shape[0], t, r)
        text, mask = check_text(x.shape[0], self.text_dim, cond)

        dtype = full_precision(self.x_embedder.proj.weight.dtype)
        grid = (x.shape[2] // self.patch_size, x.shape[3] // self.patch_size)
        tokens = self.x_embedder(x).to(dtype)
        text = self.text_embedder(text)
        interval = self.interval_embedder(t - r)
        times = self.t_embedder(t) + interval
        rotation = self._rotation(grid, tokens)
        for block in self.blocks:
            tokens = block(tokens, times, rotation, interval, text, mask)
        return join_patches(self.final_layer(tokens, times), grid, self.patch_size)

    def _check_image(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a floating-point tensor, got {got}")
        if x.ndim != 4 or x.shape[1] != self.in_channels or any(side % self.patch_size for side in x.shape[2:]):
            raise ValueError(
                f"x must have shape [B, {self.in_channels}, H, W], H and W multiples of {self.patch_size}, "
                f"got {list(x.shape)}"
            )

    def _rotation(self, grid: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions of ``grid``, made once for each shape of image."""
        key = (grid, like.device, like.dtype)
        if key not in self._rotations:
            size = self.arguments["hidden_size"] // self.arguments["num_heads"]
            with torch.inference_mode(False):  # else a later backward could not keep them
                self._rotations[key] = tuple(part.to(like.device, like.dtype) for part in rotations_2d(size, grid))
        return self._rotations[key]


class TextEmbedder(nn.Module):
    """States of a text encoder, normalised, to the width of the tokens by two linear layers."""

    def __init__(self, text_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.norm = HeadNorm(text_dim)
        self.fc1 = nn.Linear(text_dim, hidden_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, text: Tensor) -> Tensor:
        """``[B, L, text_dim]`` to ``[B, L, hidden_size]`` in the weights' dtype or autocast's."""
        return self.fc2(self.act(self.fc1(self.norm(text).to(self.fc1.weight.dtype))))
