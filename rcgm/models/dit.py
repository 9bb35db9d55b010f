"""The diffusion transformer, with one embedding for the time and another for the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.models._checks import check_labels, check_points, check_times, positive_float, positive_int
from rcgm.models.attention import SelfAttention
from rcgm.models.embeddings import LabelEmbedder, TimeEmbedder, sincos_positions_2d
from rcgm.models.precision import FullPrecisionLinear, full_precision

__all__ = ["PRESETS", "DiT", "DiTBlock"]


EMBEDDER_INITS = ("published", "wide")


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, hidden_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden_size, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]``, any floating dtype, to the same shape in the weights' dtype or autocast's."""
        return self.fc2(self.act(self.fc1(x.to(self.fc1.weight.dtype))))


class DiTBlock(nn.Module):
    """Attention and feed-forward, each normalised, modulated and gated by the condition (adaLN-Zero).

    Args are those of :class:`DiT`.

    Source: DiT, section 3.2, "adaLN-Zero block".
    """

    def __init__(self, hidden_size: int, num_heads: int, *, mlp_ratio: float = 4.0, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(hidden_size, num_heads, qk_norm=qk_norm)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = FeedForward(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), FullPrecisionLinear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens ``[B, T, hidden_size]`` and condition ``[B, hidden_size]``, both in full precision, to tokens."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_attn.unsqueeze(1) * self.attn(_modulate(self.norm1(x), shift_attn, scale_attn))
        return x + gate_mlp.unsqueeze(1) * self.mlp(_modulate(self.norm2(x), shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Normalise, modulate, and map each token to the pixels of its patch."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), FullPrecisionLinear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens ``[B, T, hidden_size]`` and condition ``[B, hidden_size]`` to ``[B, T, out_features]``."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(_modulate(self.norm_final(x), shift, scale).to(self.linear.weight.dtype))


class PatchEmbedder(nn.Module):
    """Patches to tokens, row by row, by one linear map of the pixels in the order (channel, row, column)."""

    def __init__(self, in_channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        # A matrix product rather than a convolution: by default torch lets convolutions, but not products, round
        # their float32 inputs to TF32. The weight is that of the convolution, flattened.
        self.proj = nn.Linear(in_channels * patch_size**2, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, H W / patch_size^2, hidden_size]`` in the weights' dtype or autocast's."""
        batch, channels, height, width = x.shape
        size = self.patch_size
        patches = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
        return self.proj(patches.flatten(3).flatten(1, 2).to(self.proj.weight.dtype))


class DiT(nn.Module):
    """Diffusion transformer (adaLN-Zero) that predicts the average velocity over [r, t].

    The condition of every block is the sum of an embedding of ``t``, another of the interval ``t - r`` with weights of
    its own, and one of the class.

    Precision. The weights may be float32, bfloat16, float16 or float64, under autocast or not; ``x`` is cast to them.
    Attention, feed-forward and patch layers compute in the dtype of the weights or of autocast. The times, all that is
    made from them (embeddings, modulation) and the tokens that the blocks add to are float32 regardless, or float64 if
    the weights are: a finite difference along t amplifies their rounding. For the same reason the times are refused in
    half precision; parameter sharding that casts a module's inputs has to leave those of this module alone.

    ``blocks`` is the one ModuleList; each block is called as ``block(tokens, condition)``. Names of submodules and
    parameters are those of the published DiT and SiT, to which ``interval_embedder`` is added.

    Args:
        input_size: height and width of ``x``; one int for a square.
        in_channels: channels of ``x``.
        patch_size: side of a patch; divides height and width.
        hidden_size: width of the tokens; a multiple of 4 and of ``num_heads``.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the feed-forward layers over ``hidden_size``.
        num_classes: number of classes; None for an unconditional network.
        time_scale: multiplies ``t`` and ``t - r`` before the sinusoids. Where an objective takes differences over a
            time step ``e``, keep ``time_scale * e``, the radians by which the fastest sinusoid turns, well below 1;
            1000, usual for diffusion, makes such differences meaningless. SiT has 1.
        qk_norm: see :class:`~rcgm.models.attention.SelfAttention`.
        frequency_size: number of sinusoids per time.
        embedder_init: initial embeddings of times and classes. ``"published"``: N(0, 0.02^2), as in DiT, right for
            widths near 1000. ``"wide"``: time embedders Xavier-uniform, classes N(0, 0.5^2): a narrow network's
            condition would else start so small that on digits it took over a thousand steps to notice the class at all.
        generator: of the initial weights; None for torch's own.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.

    Source: Peebles & Xie 2023; Ma et al. 2024 (SiT); for the two embeddings, TiM ("Model Architecture") and MeanFlow.

    Example:
        >>> network = DiT.from_preset("nano/2", input_size=8, in_channels=1, num_classes=10)
        >>> t, r = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
        >>> network(torch.randn(2, 1, 8, 8), t, r, torch.tensor([3, 10])).shape  # 10 is the null class
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        input_size: int | Sequence[int],
        in_channels: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int | None = None,
        time_scale: float = 10.0,
        qk_norm: bool = False,
        frequency_size: int = 256,
        embedder_init: str = "published",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input_size = _height_and_width(input_size)
        self.in_channels = positive_int("in_channels", in_channels)
        self.patch_size = positive_int("patch_size", patch_size)
        if any(side % patch_size for side in self.input_size):
            raise ValueError(f"input_size must be a multiple of patch_size, got {self.input_size} and {patch_size}")
        positive_int("hidden_size", hidden_size)
        if hidden_size % 4:
            raise ValueError(f"hidden_size must be a multiple of 4 (positions), got {hidden_size}")
        positive_int("depth", depth)
        positive_float("mlp_ratio", mlp_ratio)
        if int(hidden_size * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio must leave the feed-forward layers a width of at least 1, got {mlp_ratio}")
        positive_float("time_scale", time_scale)
        if embedder_init not in EMBEDDER_INITS:
            raise ValueError(f"embedder_init must be one of {', '.join(EMBEDDER_INITS)}, got {embedder_init!r}")
        self.embedder_init = embedder_init
        self.num_classes = None if num_classes is None else positive_int("num_classes", num_classes)

        self.x_embedder = PatchEmbedder(in_channels, patch_size, hidden_size)
        self.t_embedder = TimeEmbedder(hidden_size, scale=time_scale, frequency_size=frequency_size)
        self.interval_embedder = TimeEmbedder(hidden_size, scale=time_scale, frequency_size=frequency_size)
        self.y_embedder = None if num_classes is None else LabelEmbedder(num_classes, hidden_size)
        self.blocks = nn.ModuleList(
            [DiTBlock(hidden_size, num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm) for _ in range(depth)]
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels)
        rows, columns = self._grid()
        self.register_buffer("pos_embed", torch.empty(1, rows * columns, hidden_size), persistent=False)
        self.reset_parameters(generator)

    @classmethod
    def from_preset(cls, preset: str, **arguments: Any) -> DiT:
        """A network of a named size: one of ``PRESETS``, such as ``"XL/2"``.

        Args:
            preset: the name.
            arguments: the remaining arguments of the constructor; they win over the preset's.

        Raises:
            TypeError, ValueError: unknown name, or as the constructor.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        return cls(**{**PRESETS[preset], **arguments})

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Set weights and positions to their initial values, in place, also after ``to_empty`` from the meta device.

        Matrices are Xavier-uniform and biases 0; embeddings of times and classes are as ``embedder_init`` says;
        modulations and the last layer are 0, so that the network starts as the function 0 and the blocks as identities.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
        if self.embedder_init == "published":
            for embedder in (self.t_embedder, self.interval_embedder):
                for layer in (embedder.mlp[0], embedder.mlp[2]):
                    nn.init.normal_(layer.weight, std=0.02, generator=generator)
        if self.y_embedder is not None:
            class_std = 0.02 if self.embedder_init == "published" else 0.5
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=class_std, generator=generator)
        for layer in (*self.blocks, self.final_layer):
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        self.pos_embed.copy_(sincos_positions_2d(self.pos_embed.shape[2], self._grid()).unsqueeze(0))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor | None = None) -> Tensor:
        """The average velocity over [r, t] at ``x``.

        Args:
            x: ``[B, in_channels, *input_size]``, any floating dtype.
            t: ``[B]``, float32 or float64, the time of ``x`` in [0, 1].
            r: ``[B]``, float32 or float64, the time to go to, at most ``t``.
            cond: ``[B]``, int64 or int32, class indices in ``0..num_classes``, ``num_classes`` being the null class;
                None if the network is unconditional.

        Returns:
            ``[B, in_channels, *input_size]``, in the dtype of the weights or of autocast.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument has the wrong shape.
        """
        check_points(x, (self.in_channels, *self.input_size))
        check_times(x.shape[0], t, r)
        check_labels(x.shape[0], self.num_classes, cond)

        dtype = full_precision(self.x_embedder.proj.weight.dtype)
        tokens = self.x_embedder(x).to(dtype) + self.pos_embed.to(dtype)
        condition = self.t_embedder(t) + self.interval_embedder(t - r)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(cond)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self._unpatchify(self.final_layer(tokens, condition))

    def _grid(self) -> tuple[int, int]:
        height, width = self.input_size
        return height // self.patch_size, width // self.patch_size

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        rows, columns = self._grid()
        size, channels = self.patch_size, self.in_channels
        batch = tokens.shape[0]
        patches = tokens.reshape(batch, rows, columns, size, size, channels).permute(0, 5, 1, 3, 2, 4)
        return patches.reshape(batch, channels, rows * size, columns * size)


def _height_and_width(input_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(input_size, Sequence) and not isinstance(input_size, str):
        if len(input_size) != 2:
            raise ValueError(f"input_size must be one int or two, got {len(input_size)} of them")
        height, width = input_size
    else:
        height = width = input_size
    return positive_int("input_size", height), positive_int("input_size", width)


_SIZES = {
    # Peebles & Xie 2023, table 1.
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}

_SMALL_SIZES = {
    # For images of about 8x8 on a CPU: some 7 thousand, 250 thousand and 1 million parameters.
    "nano": {"hidden_size": 16, "depth": 1, "num_heads": 2, "frequency_size": 32},
    "micro": {"hidden_size": 64, "depth": 3, "num_heads": 4, "frequency_size": 128},
    "tiny": {"hidden_size": 128, "depth": 3, "num_heads": 4, "frequency_size": 256},
}

PRESETS: Mapping[str, Mapping[str, int]] = {
    f"{name}/{patch_size}": {**size, "patch_size": patch_size}
    for sizes, patch_sizes in ((_SIZES, (2, 4, 8)), (_SMALL_SIZES, (1, 2, 4)))
    for name, size in sizes.items()
    for patch_size in patch_sizes
}
"""Arguments of :class:`DiT` by name: S, B, L, XL with patches of 2, 4, 8; nano, micro, tiny with patches of 1, 2, 4."""
