"""From published weights to a network of this package that computes the same function."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rcgm.checks import one_of
from rcgm.models.dit import DiT
from rcgm.models.published.layouts import LAYOUTS, Layout
from rcgm.models.published.weights import read_weights

__all__ = ["LAYOUTS", "initialise"]

NOT_PUBLISHED = ("interval_embedder.", "qkv_interval.", "guidance_embedder.")
"""In the names of tensors that no published network has."""


@torch.no_grad()
def initialise(
    network: DiT, source: str | os.PathLike[str] | Mapping[str, Tensor], layout: str, *, weights: str = "ema"
) -> None:
    """Give ``network`` published weights, in place.

    Afterwards ``network(x, t, r, cond)`` is, for any ``r``, what the published network computes: under the linear
    transport the instantaneous velocity for SiT and LightningDiT, under VP the noise for DiT. The last layer of the
    interval's embedding is 0, so that ``r`` makes no difference until training finds one. Positions are computed and
    not read, so that the size of the images may be another. The number of heads shows in no tensor: it is yours to
    give.

    Args:
        network: of the same size and style: a preset such as ``"SiT-XL/2"``, with ``num_classes`` of the weights.
        source: file, or tensors by name.
        layout: a key of ``LAYOUTS``.
        weights: of a file that holds both, the average (``"ema"``) or the network itself (``"student"``).

    Raises:
        TypeError: ``network`` is no DiT.
        ValueError: the weights are not those of such a network. The message names what is missing, what is left over
            and what has another shape.

    Example:
        >>> network = DiT.from_preset("SiT-XL/2", input_size=32, in_channels=4, num_classes=1000)  # doctest: +SKIP
        >>> initialise(network, "SiT-XL-2-256x256.pt", "sit")  # doctest: +SKIP
    """
    if not isinstance(network, DiT):
        raise TypeError(f"network must be a DiT, got {type(network).__name__}")
    family = LAYOUTS[one_of("layout", layout, LAYOUTS)]
    tensors = dict(source) if isinstance(source, Mapping) else read_weights(source, weights)
    scale = network.arguments["time_scale"]
    if scale != abs(family.rate):
        raise ValueError(f"time_scale must be {abs(family.rate)} for weights of layout {layout!r}, got {scale}")
    _check_positions(network, tensors)
    tensors = {
        name: tensor.to("cpu", torch.float64) for name, tensor in tensors.items() if not name.startswith(family.ignored)
    }
    tensors = _in_our_conventions(network, tensors, family)
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not _not_published(name)}
    _check_names_and_shapes(tensors, {name: tensor.shape for name, tensor in wanted.items()})
    for name, tensor in wanted.items():
        tensor.copy_(tensors[name])
    last = network.interval_embedder.mlp[2]
    last.weight.zero_()
    last.bias.zero_()


def _in_our_conventions(network: DiT, tensors: dict[str, Tensor], family: Layout) -> dict[str, Tensor]:
    result = dict(tensors)
    patch = tensors.get("x_embedder.proj.weight")
    if patch is not None and patch.ndim == 4:
        result["x_embedder.proj.weight"] = patch.flatten(1)  # of a convolution
    for part in ("weight", "bias"):
        name = f"final_layer.linear.{part}"
        if name in tensors:
            result[name] = family.sign * _without_variance(network, tensors[name])
    name = "t_embedder.mlp.0.weight"
    if name in tensors:
        result[name] = _shifted_time(tensors[name], family)
    return result


def _without_variance(network: DiT, tensor: Tensor) -> Tensor:
    """The rows of the last layer that make the prediction; the others, where there are twice as many, a variance."""
    channels, pixels = network.in_channels, network.patch_size**2
    if tensor.shape[0] != 2 * channels * pixels:
        return tensor
    return tensor.unflatten(0, (pixels, 2 * channels))[:, :channels].flatten(0, 1)


def _shifted_time(weight: Tensor, family: Layout) -> Tensor:
    """A first layer that gives for the sinusoids of ``|rate| t`` what ``weight`` gives for ``rate t + offset``."""
    half = weight.shape[1] // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float64) / half)
    turn = math.copysign(1.0, family.rate)
    cosines, sines = weight[:, :half], weight[:, half:]
    cos, sin = (family.offset * frequencies).cos(), (family.offset * frequencies).sin()
    # cos(turn p + o) = cos p cos o - turn sin p sin o;  sin(turn p + o) = turn sin p cos o + cos p sin o
    return torch.cat([cosines * cos + sines * sin, turn * (sines * cos - cosines * sin)], dim=1)


def _check_positions(network: DiT, tensors: Mapping[str, Tensor]) -> None:
    positions = network.arguments["positions"]
    if any(name.startswith("feat_rope.") for name in tensors) and "rope" not in positions:
        raise ValueError(f"positions must be sincos_rope for these weights, which have rotations, got {positions!r}")
    saved = tensors.get("pos_embed")
    if saved is None:
        return
    if network.pos_embed is None:
        raise ValueError(f"positions must be sincos or sincos_rope for these weights, got {positions!r}")
    if saved.shape == network.pos_embed.shape:
        error = (saved.to(network.pos_embed) - network.pos_embed).abs().max().item()
        if not error < 1e-3:
            raise ValueError(
                f"pos_embed of these weights must be DiT's fixed positions, and differs by up to {error:.3g}"
            )


def _check_names_and_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    problems = []
    for what, names in (("missing", wanted.keys() - tensors.keys()), ("left over", tensors.keys() - wanted.keys())):
        if names:
            problems.append(f"{what}: {_some(sorted(names))}")
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if shapes:
        problems.append(f"of another shape: {_some(shapes)}")
    if problems:
        raise ValueError("these weights do not fit the network (tensors " + "; ".join(problems) + ")")


def _not_published(name: str) -> bool:
    return any(part in name for part in NOT_PUBLISHED)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
