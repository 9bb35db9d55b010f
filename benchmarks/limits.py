"""What forward mode cannot be combined with, as the errors that it raises here."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from benchmarks.forward_mode import by_transform, use_flash_jvp
from rcgm.models import DiT

WORKS = "works"


def attempts(device: torch.device, compiler: str) -> list[dict[str, str]]:
    """Each combination with ``torch.func.jvp`` of a small DiT, and what came of it."""
    return [
        {"combination": name, "outcome": _outcome(lambda attempt=attempt: attempt(device, compiler))}
        for name, attempt in ATTEMPTS.items()
    ]


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _outcome(attempt: Callable[[], str | None]) -> str:
    try:
        return attempt() or WORKS
    except Exception as error:  # whatever it is, it is the result
        return first_line(error)


def _network(device: torch.device, **arguments: Any) -> DiT:
    return DiT.from_preset("nano/2", input_size=16, in_channels=1, num_classes=10, **arguments).to(device)


def _jvp(network: nn.Module, device: torch.device, *, gradient: bool, attention: SDPBackend = SDPBackend.MATH) -> None:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # flash attention on a GPU wants 16 bits
    x, t = torch.randn(4, 1, 16, 16, device=device), torch.rand(4, device=device)
    cond = torch.zeros(4, dtype=torch.long, device=device)
    tangents = (torch.randn_like(x), torch.ones_like(t), torch.zeros_like(t))
    with (
        sdpa_kernel(attention), torch.set_grad_enabled(gradient),
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
    ):  # fmt: skip
        value, _ = by_transform(network, (x, t, t / 2), tangents, cond)
    if gradient:
        value.sum().backward()


def _flash_attention(device: torch.device, compiler: str) -> None:
    _jvp(_network(device), device, gradient=False, attention=SDPBackend.FLASH_ATTENTION)


def _efficient_attention(device: torch.device, compiler: str) -> None:
    _jvp(_network(device), device, gradient=False, attention=SDPBackend.EFFICIENT_ATTENTION)


def _cudnn_attention(device: torch.device, compiler: str) -> None:
    _jvp(_network(device), device, gradient=False, attention=SDPBackend.CUDNN_ATTENTION)


def _flash_jvp(device: torch.device, compiler: str) -> None:
    network = _network(device, hidden_size=32)
    use_flash_jvp(network)
    _jvp(network, device, gradient=True)


def _head_of_72(device: torch.device, compiler: str) -> None:
    from jvp_flash_attention.jvp_attention import JVPAttn

    q = torch.randn(1, 2, 64, 72, device=device, dtype=torch.bfloat16)
    JVPAttn.fwd_dual(q, q, q)


def _compiled_inside(device: torch.device, compiler: str) -> str | None:
    torch.compiler.reset()
    network = _network(device)
    network.compile(backend=compiler, dynamic=False)
    before = _graphs()
    _jvp(network, device, gradient=False)
    return None if _graphs() > before else "no error, but nothing is compiled: the network runs eagerly"


def _compiled_outside(device: torch.device, compiler: str) -> None:
    torch.compiler.reset()
    network = _network(device)
    x, t = torch.randn(4, 1, 16, 16, device=device), torch.rand(4, device=device)
    cond = torch.zeros(4, dtype=torch.long, device=device)
    compiled = torch.compile(by_transform, backend=compiler, dynamic=False, fullgraph=True)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        compiled(network, (x, t, t / 2), (x, torch.ones_like(t), torch.zeros_like(t)), cond)


def _checkpointing(device: torch.device, compiler: str) -> None:
    network = _network(device)
    network.blocks = nn.ModuleList(_Checkpointed(block) for block in network.blocks)
    _jvp(network, device, gradient=True)


def _sharded(device: torch.device, compiler: str) -> str | None:
    with _one_process(device):
        mesh = init_device_mesh(device.type, (1,))
        network = _network(device)
        for block in network.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
        _jvp(network, device, gradient=True)
    return f"{WORKS}, in a group of one process"


class _Checkpointed(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, *arguments, use_reentrant=False)


@contextlib.contextmanager
def _one_process(device: torch.device) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{os.path.join(folder, 'store')}"
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


ATTEMPTS: dict[str, Callable[[torch.device, str], str | None]] = {
    "FlashAttention (SDPBackend.FLASH_ATTENTION)": _flash_attention,
    "memory-efficient attention (SDPBackend.EFFICIENT_ATTENTION)": _efficient_attention,
    "cuDNN attention (SDPBackend.CUDNN_ATTENTION)": _cudnn_attention,
    "jvp-flash-attention, heads of 16": _flash_jvp,
    "jvp-flash-attention, heads of 72 as in XL, not filled up": _head_of_72,
    "jvp of a compiled network": _compiled_inside,
    "compiled jvp": _compiled_outside,
    "activation checkpointing of the blocks, with gradient": _checkpointing,
    "FSDP2 (fully_shard), with gradient": _sharded,
}
