"""The diffusion transformer, with one embedding for the time and another for the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rcgm.checks import boolean, one_of, positive_float, whole_number
from rcgm.models.blocks import DiTBlock, FinalLayer
from rcgm.models.checks import check_labels, check_points, check_times
from rcgm.models.embeddings import LabelEmbedder, TimeEmbedder
from rcgm.models.feed_forward import FEED_FORWARDS
from rcgm.models.guidance import GuidanceEmbedder, labels_and_guidance
from rcgm.models.initial_weights import initialise_transformer
from rcgm.models.norms import NORMS
from rcgm.models.patches import PatchEmbedder, join_patches, join_windows
from rcgm.models.positions import POSITIONS, rotations_2d, sincos_positions_2d
from rcgm.models.precision import full_precision
from rcgm.models.presets import with_preset

__all__ = ["DiT"]

EMBEDDER_INITS = ("published", "wide")


class DiT(nn.Module):
    """Diffusion transformer (adaLN-Zero) that predicts the average velocity over [r, t].

    The condition of every block is the sum of an embedding of ``t``, another of the interval ``t - r`` with weights of
    its own, and one of the class.

    Precision. The weights may be float32, bfloat16, float16 or float64, under autocast or not; ``x`` is cast to them.
    Attention, feed-forward and patch layers compute in the dtype of the weights or of autocast. The times, all that is
    made from them (embeddings, modulation) and the tokens that the blocks add to are float32 regardless, or float64 if
    the weights are: a finite difference along t amplifies their rounding. For the same reason the times are refused in
    half precision; parameter sharding that casts a module's inputs has to leave those of this module alone.

    ``blocks`` is the one ModuleList; each block is called as ``block(tokens, condition)``, with rotary positions or
    interval-aware attention as ``block(tokens, condition, rotation, interval)``. Names of submodules and parameters are
    those of the published DiT, SiT and LightningDiT, to which ``interval_embedder`` is added.

    Args:
        input_size: height and width of ``x``; one int for a square.
        in_channels: channels of ``x``.
        patch_size: side of a patch; divides height and width.
        patch_overlap: pixels by which the window of a token reaches beyond its patch on each side, in input and output;
            0 as published, at most ``patch_size``. Without it a small network on pixels leaves seams between patches.
        hidden_size: width of the tokens; a multiple of 4 and of ``num_heads``.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the feed-forward layers over ``hidden_size``.
        num_classes: number of classes; None for an unconditional network.
        guidance_input: let the network take scale and interval of guidance as inputs, for objectives with
            ``rcgm.objectives.InputGuidance``.
        time_scale: multiplies ``t`` and ``t - r`` before the sinusoids. Where an objective takes differences over a
            time step ``e``, keep ``time_scale * e``, the radians by which the fastest sinusoid turns, well below 1;
            1000, usual for diffusion, makes such differences meaningless. SiT has 1.
        qk_norm: see :class:`~rcgm.models.attention.SelfAttention`.
        frequency_size: number of sinusoids per time.
        embedder_init: initial embeddings of times and classes. ``"published"``: N(0, 0.02^2), as in DiT, right for
            widths near 1000. ``"wide"``: time embedders Xavier-uniform, classes N(0, 0.5^2): a narrow network's
            condition would else start so small that on digits it took over a thousand steps to notice the class at all.
        norm: of the tokens, a key of :data:`~rcgm.models.norms.NORMS`.
        feed_forward: a key of :data:`~rcgm.models.feed_forward.FEED_FORWARDS`.
        positions: one of :data:`~rcgm.models.positions.POSITIONS`; rotations need heads of a multiple of 4 features.
        interval_aware: let each block's queries, keys and values depend on the interval, as TiM does; see
            :class:`~rcgm.models.attention.SelfAttention`.
        attention: a key of :data:`~rcgm.models.attention_backends.BACKENDS`.
        generator: of the initial weights; None for torch's own.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.

    Attributes:
        arguments: those of the constructor, from which the same network is built again, in values that JSON can hold.

    Source: Peebles & Xie 2023; Ma et al. 2024 (SiT); Yao et al. 2025 (LightningDiT); for the two embeddings, TiM
    ("Model Architecture") and MeanFlow.

    Example:
        >>> network = DiT.from_preset("nano/2", input_size=8, in_channels=1, num_classes=10)
        >>> t, r = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
        >>> network(torch.randn(2, 1, 8, 8), t, r, torch.tensor([3, 10])).shape  # 10 is the null class
        torch.Size([2, 1, 8, 8])
    """

    lora_targets: ClassVar[tuple[str, ...]] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w3")
    """Names of the linear layers that LoRA adapts if nobody says which; a network has some of them."""

    def __init__(
        self,
        *,
        input_size: int | Sequence[int],
        in_channels: int,
        patch_size: int,
        patch_overlap: int = 0,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int | None = None,
        guidance_input: bool = False,
        time_scale: float = 10.0,
        qk_norm: bool = False,
        frequency_size: int = 256,
        embedder_init: str = "published",
        norm: str = "layer",
        feed_forward: str = "gelu",
        positions: str = "sincos",
        interval_aware: bool = False,
        attention: str = "sdpa",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input_size = _height_and_width(input_size)
        self.in_channels = whole_number("in_channels", in_channels)
        self.patch_size = whole_number("patch_size", patch_size)
        if any(side % patch_size for side in self.input_size):
            raise ValueError(f"input_size must be a multiple of patch_size, got {self.input_size} and {patch_size}")
        self.patch_overlap = whole_number("patch_overlap", patch_overlap, 0)
        if patch_overlap > patch_size:
            raise ValueError(f"patch_overlap must be at most patch_size, {patch_size}, got {patch_overlap}")
        whole_number("hidden_size", hidden_size)
        if hidden_size % 4:
            raise ValueError(f"hidden_size must be a multiple of 4 (positions), got {hidden_size}")
        whole_number("depth", depth)
        positive_float("mlp_ratio", mlp_ratio)
        if int(hidden_size * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio must leave the feed-forward layers a width of at least 1, got {mlp_ratio}")
        positive_float("time_scale", time_scale)
        self.embedder_init = one_of("embedder_init", embedder_init, EMBEDDER_INITS)
        one_of("norm", norm, NORMS)
        one_of("feed_forward", feed_forward, FEED_FORWARDS)
        one_of("positions", positions, POSITIONS)
        self.num_classes = None if num_classes is None else whole_number("num_classes", num_classes)

        self.x_embedder = PatchEmbedder(in_channels, patch_size, hidden_size, overlap=patch_overlap)
        times = {"scale": time_scale, "frequency_size": frequency_size}
        self.t_embedder = TimeEmbedder(hidden_size, **times)
        self.interval_embedder = TimeEmbedder(hidden_size, **times)
        self.y_embedder = None if num_classes is None else LabelEmbedder(num_classes, hidden_size)
        self.guidance_input = boolean("guidance_input", guidance_input)
        self.guidance_embedder = GuidanceEmbedder(hidden_size, **times) if guidance_input else None
        style = {"qk_norm": qk_norm, "norm": norm, "feed_forward": feed_forward, "interval_aware": interval_aware}
        self.blocks = nn.ModuleList(
            [DiTBlock(hidden_size, num_heads, mlp_ratio=mlp_ratio, attention=attention, **style) for _ in range(depth)]
        )
        self.final_layer = FinalLayer(hidden_size, (patch_size + 2 * patch_overlap) ** 2 * in_channels, norm=norm)
        rows, columns = self._grid()
        head_size = hidden_size // num_heads
        if "rope" in positions and head_size % 4:
            raise ValueError(f"hidden_size / num_heads must be a multiple of 4 for rotary positions, got {head_size}")
        shapes = {
            "pos_embed": (1, rows * columns, hidden_size) if "sincos" in positions else None,
            "rope_cos": (rows * columns, head_size) if "rope" in positions else None,
            "rope_sin": (rows * columns, head_size) if "rope" in positions else None,
        }
        for name, shape in shapes.items():
            self.register_buffer(name, None if shape is None else torch.empty(shape), persistent=False)
        self.arguments: dict[str, Any] = {
            "input_size": list(self.input_size),
            "in_channels": in_channels,
            "patch_size": patch_size,
            "patch_overlap": patch_overlap,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "guidance_input": guidance_input,
            "time_scale": time_scale,
            "frequency_size": frequency_size,
            "embedder_init": embedder_init,
            "positions": positions,
            "attention": attention,
            **style,
        }
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
        return cls(**with_preset(preset, arguments))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Set weights and positions to their initial values, in place, also after ``to_empty`` from the meta device.

        Matrices are Xavier-uniform and biases 0; embeddings of times and classes are as ``embedder_init`` says;
        modulations and the last layer are 0, so that the network starts as the function 0 and the blocks as identities.
        """
        published = self.embedder_init == "published"
        narrow = (self.t_embedder, self.interval_embedder) if published else ()
        initialise_transformer(self, narrow, generator)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02 if published else 0.5, generator=generator)
        if self.guidance_embedder is not None:
            self.guidance_embedder.reset_last()
        self.reset_buffers()

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Compute the positions anew, in place, also after ``to_empty`` from the meta device."""
        if self.pos_embed is not None:
            self.pos_embed.copy_(sincos_positions_2d(self.pos_embed.shape[2], self._grid()).unsqueeze(0))
        if self.rope_cos is not None:
            cosines, sines = rotations_2d(self.rope_cos.shape[1], self._grid())
            self.rope_cos.copy_(cosines)
            self.rope_sin.copy_(sines)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor | Mapping[str, Tensor] | None = None) -> Tensor:
        """The average velocity over [r, t] at ``x``.

        Args:
            x: ``[B, in_channels, *input_size]``, any floating dtype.
            t: ``[B]``, float32 or float64, the time of ``x`` in [0, 1].
            r: ``[B]``, float32 or float64, the time to go to, at most ``t``.
            cond: ``[B]``, int64 or int32, class indices in ``0..num_classes``, ``num_classes`` being the null class;
                None if the network is unconditional. With ``guidance_input`` it may be ``{"labels": indices,
                "guidance": [B, 3]}``, the scale of guidance and both ends of its interval; without them there is none.

        Returns:
            ``[B, in_channels, *input_size]``, in the dtype of the weights or of autocast.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument has the wrong shape.
        """
        check_points(x, (self.in_channels, *self.input_size))
        check_times(x.shape[0], t, r)
        guidance = None
        if self.guidance_embedder is not None:
            cond, guidance = labels_and_guidance(x, cond)
        check_labels(x.shape[0], self.num_classes, cond)

        dtype = full_precision(self.x_embedder.proj.weight.dtype)
        tokens = self.x_embedder(x).to(dtype)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed.to(dtype)
        interval = self.interval_embedder(t - r)
        condition = self.t_embedder(t) + interval
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(cond)
        if guidance is not None:
            condition = condition + self.guidance_embedder(guidance)
        further = self._further(interval)
        for block in self.blocks:
            tokens = block(tokens, condition, *further)
        return self.image_of(self.final_layer(tokens, condition))

    def image_of(self, pixels: Tensor) -> Tensor:
        """The image ``[B, in_channels, *input_size]`` of what the last layer says of each token's patch."""
        if self.patch_overlap:
            return join_windows(pixels, self._grid(), self.patch_size, self.patch_overlap)
        return join_patches(pixels, self._grid(), self.patch_size)

    def _further(self, interval: Tensor) -> tuple[Any, ...]:
        if self.rope_cos is None and not self.arguments["interval_aware"]:
            return ()
        return (None if self.rope_cos is None else (self.rope_cos, self.rope_sin)), interval

    def _grid(self) -> tuple[int, int]:
        height, width = self.input_size
        return height // self.patch_size, width // self.patch_size


def _height_and_width(input_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(input_size, Sequence) and not isinstance(input_size, str):
        if len(input_size) != 2:
            raise ValueError(f"input_size must be one int or two, got {len(input_size)} of them")
        height, width = input_size
    else:
        height = width = input_size
    return whole_number("input_size", height), whole_number("input_size", width)
