"""Initial weights of diffusion transformers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from rcgm.models.embeddings import TimeEmbedder

__all__ = ["initialise_transformer"]


@torch.no_grad()
def initialise_transformer(
    network: nn.Module, narrow: Iterable[TimeEmbedder], generator: torch.Generator | None = None
) -> None:
    """Weights of DiT's published code, in place.

    Matrices are Xavier-uniform and biases 0; modulations and the last layer are 0, so that the network starts as the
    function 0 and the blocks as identities.

    Args:
        network: with ``blocks`` and ``final_layer``, each with ``adaLN_modulation``.
        narrow: embedders whose matrices are drawn from N(0, 0.02^2) instead.
        generator: None for torch's own.

    Source: Peebles & Xie 2023.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif getattr(module, "weight", None) is not None and module.weight.ndim == 1:  # the gain of a norm
            nn.init.ones_(module.weight)
    for embedder in narrow:
        for layer in (embedder.mlp[0], embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02, generator=generator)
    for layer in (*network.blocks, network.final_layer):
        nn.init.zeros_(layer.adaLN_modulation[1].weight)
    nn.init.zeros_(network.final_layer.linear.weight)
