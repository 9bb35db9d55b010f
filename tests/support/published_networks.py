"""The forward passes of DiT, SiT and LightningDiT as their authors published them, written anew in plain torch.

Names of parameters and buffers are the published ones; so a ``state_dict`` of random weights has the layout of a
published file. Nothing here comes from the package that is tested.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def sinusoids(t, size=256):
    frequencies = torch.exp(-math.log(10000) * torch.arange(0, size // 2, dtype=torch.float32) / (size // 2))
    arguments = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(arguments), torch.sin(arguments)], dim=-1).to(t.dtype)


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def fixed_positions(size, side):
    def along(places):
        frequencies = 1.0 / 10000 ** (torch.arange(size // 4, dtype=torch.float64) / (size / 4.0))
        phases = places[:, None] * frequencies
        return torch.cat([phases.sin(), phases.cos()], 1)

    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([along(columns.reshape(-1)), along(rows.reshape(-1))], 1).float()[None]


class RootMeanSquare(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Rotation(nn.Module):
    def __init__(self, size, side):
        super().__init__()
        frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2)[: size // 2].float() / size))
        phases = torch.einsum("t,f->tf", torch.arange(side).float(), frequencies).repeat_interleave(2, dim=1)
        grid = torch.cat([phases[:, None].expand(-1, side, -1), phases[None].expand(side, -1, -1)], dim=-1)
        self.register_buffer("freqs_cos", grid.cos().reshape(side * side, -1))
        self.register_buffer("freqs_sin", grid.sin().reshape(side * side, -1))

    def forward(self, x):
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).reshape(x.shape)
        return x * self.freqs_cos + turned * self.freqs_sin


class Attention(nn.Module):
    def __init__(self, size, heads, norm):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        if norm:
            self.q_norm, self.k_norm = RootMeanSquare(size // heads), RootMeanSquare(size // heads)
        self.proj = nn.Linear(size, size)

    def forward(self, x, rotation):
        batch, tokens, size = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        weights = ((q * (size // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, size))


class Mlp(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, width), nn.Linear(width, size)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLUFFN(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.w12, self.w3 = nn.Linear(size, 2 * width), nn.Linear(width, size)

    def forward(self, x):
        first, second = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(first) * second)


class Block(nn.Module):
    def __init__(self, size, heads, lightning, qk_norm):
        super().__init__()
        make = RootMeanSquare if lightning else lambda size: nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.norm1, self.norm2 = make(size), make(size)
        self.attn = Attention(size, heads, qk_norm)
        self.mlp = SwiGLUFFN(size, int(2 / 3 * 4 * size)) if lightning else Mlp(size, 4 * size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 6 * size))

    def forward(self, x, c, rotation):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1), rotation)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class Embedder(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, t):
        return self.mlp(sinusoids(t))


class Labels(nn.Module):
    def __init__(self, classes, size):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, size)


class Last(nn.Module):
    def __init__(self, size, outputs, lightning):
        super().__init__()
        self.norm_final = RootMeanSquare(size) if lightning else nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(size, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class Patches(nn.Module):
    def __init__(self, channels, patch, size):
        super().__init__()
        self.proj = nn.Conv2d(channels, size, kernel_size=patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Published(nn.Module):
    """DiT and SiT (``learn_sigma``), or LightningDiT (``lightning``)."""

    def __init__(
        self, *, side, patch, channels, size, depth, heads, classes, learn_sigma=False, lightning=False, qk_norm=False
    ):
        super().__init__()
        self.channels, self.patch, self.learn_sigma = channels, patch, learn_sigma
        self.outputs = channels * (2 if learn_sigma else 1)
        self.x_embedder = Patches(channels, patch, size)
        self.t_embedder = Embedder(size)
        self.y_embedder = Labels(classes, size)
        self.pos_embed = nn.Parameter(fixed_positions(size, side // patch), requires_grad=False)
        self.feat_rope = Rotation(size // heads // 2, side // patch) if lightning else None
        self.blocks = nn.ModuleList([Block(size, heads, lightning, qk_norm) for _ in range(depth)])
        self.final_layer = Last(size, patch * patch * self.outputs, lightning)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1, generator=generator)

    def forward(self, x, t, y):
        tokens = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            tokens = block(tokens, c, self.feat_rope)
        tokens = self.final_layer(tokens, c)
        side, p = int(tokens.shape[1] ** 0.5), self.patch
        tokens = tokens.reshape(x.shape[0], side, side, p, p, self.outputs)
        image = torch.einsum("nhwpqc->nchpwq", tokens).reshape(x.shape[0], self.outputs, side * p, side * p)
        return image.chunk(2, dim=1)[0] if self.learn_sigma else image
