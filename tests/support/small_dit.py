"""A small diffusion transformer away from its initial zeros, and its formulas in plain tensors."""

import math

import torch

from rcgm.models import DiT
from rcgm.models.embeddings import sinusoidal_embedding
from rcgm.models.positions import sincos_positions_2d

SMALL = {
    "input_size": (4, 6),
    "in_channels": 3,
    "patch_size": 2,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "frequency_size": 16,
}


def drawn(dtype=torch.float32, std=0.3, **arguments):
    """A small network away from its initial zeros."""
    network = DiT(**{**SMALL, **arguments})
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return network.to(dtype)


def inputs(dtype=torch.float32, batch=3, shape=(3, 4, 6)):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    r = t * torch.rand(batch, generator=generator, dtype=torch.float64)
    times = torch.float64 if dtype == torch.float64 else torch.float32
    return x, t.to(times), r.to(times), torch.arange(batch) % 6


def dit_by_definition(network, x, t, r, cond):
    """The formulas of the paper in plain tensors, patch by patch."""
    weights = dict(network.named_parameters())

    def linear(name, value):
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def silu(value):
        return value / (1 + torch.exp(-value))

    def gelu(value):
        return 0.5 * value * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    def normalised(value):
        centred = value - value.mean(2, keepdim=True)
        return centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()

    def modulated(value, shift, scale):
        return normalised(value) * (1 + scale[:, None]) + shift[:, None]

    def embedded(name, time):
        features = sinusoidal_embedding(time, 16, scale=7.0, dtype=torch.float64)
        return linear(f"{name}.mlp.2", silu(linear(f"{name}.mlp.0", features)))

    size = network.patch_size
    cells = [(row, column) for row in range(0, x.shape[2], size) for column in range(0, x.shape[3], size)]
    patches = [x[:, :, row : row + size, column : column + size].flatten(1) for row, column in cells]
    grid = (x.shape[2] // size, x.shape[3] // size)
    # Positions are kept in float32.
    positions = sincos_positions_2d(16, grid).float().double()
    tokens = linear("x_embedder.proj", torch.stack(patches, 1)) + positions
    c = (
        embedded("t_embedder", t)
        + embedded("interval_embedder", t - r)
        + weights["y_embedder.embedding_table.weight"][cond]
    )
    for block in range(2):
        parts = linear(f"blocks.{block}.adaLN_modulation.1", silu(c)).split(16, dim=1)
        h = modulated(tokens, parts[0], parts[1])
        q, k, v = (part.unflatten(2, (4, 4)) for part in linear(f"blocks.{block}.attn.qkv", h).split(16, dim=2))
        attention = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2, dim=3)
        heads = torch.einsum("bhqk,bkhd->bqhd", attention, v).flatten(2)
        tokens = tokens + parts[2][:, None] * linear(f"blocks.{block}.attn.proj", heads)
        h = modulated(tokens, parts[3], parts[4])
        tokens = tokens + parts[5][:, None] * linear(
            f"blocks.{block}.mlp.fc2", gelu(linear(f"blocks.{block}.mlp.fc1", h))
        )
    shift, scale = linear("final_layer.adaLN_modulation.1", silu(c)).split(16, dim=1)
    pixels = linear("final_layer.linear", modulated(tokens, shift, scale))
    result = torch.empty_like(x)
    for token, (row, column) in enumerate(cells):
        patch = pixels[:, token].unflatten(1, (size, size, x.shape[1]))
        result[:, :, row : row + size, column : column + size] = patch.permute(0, 3, 1, 2)
    return result
