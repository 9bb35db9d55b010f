"""Activation checkpointing, compilation and sharding of one network, which needs no code for them.

The repeated part of a network must be a ``ModuleList`` called ``blocks``, or be named by ``block_names`` of the network
or a module in it; without one, the network is one block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from rcgm.distributed.activation_checkpointing import recomputed
from rcgm.roles import Role, base_of

if TYPE_CHECKING:
    from rcgm.config import ParallelConfig

__all__ = ["blocks_of", "gather_nothing", "is_sharded", "make_mesh", "parallelize", "synchronise_gradients"]


def make_mesh(config: ParallelConfig, device: torch.device, world_size: int) -> DeviceMesh | None:
    """The mesh that networks are sharded over; None for one process.

    It has one dimension for ``full``, and two for ``hybrid`` and ``replicate``: copies, and the shards of a copy.

    Raises:
        ValueError: ``world_size`` is no multiple of the shards of a copy.
    """
    if world_size == 1:
        return None
    if config.shard == "full":
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    size = 1
    if config.shard == "hybrid":
        size = config.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if world_size % size:
        raise ValueError(f"parallel.shard_size must divide the number of processes, {world_size}, got {size}")
    return init_device_mesh(device.type, (world_size // size, size), mesh_dim_names=("copy", "shard"))


def parallelize(
    network: nn.Module,
    config: ParallelConfig,
    mesh: DeviceMesh | None,
    *,
    compile: bool | str = False,
    keep_gathered: bool,
) -> None:
    """Prepare ``network`` in place for training, or for forwards only if none of its parameters takes gradients.

    With a mesh its parameters become DTensors, with the same names. Copies of the network have to be made before.

    Args:
        network: of a role, its base is prepared with the adapters of all roles on it: one call serves them all.
            What is trained has one dtype.
        config: section ``parallel`` of a run.
        mesh: see :func:`make_mesh`.
        compile: whether to compile each block, or the name of a backend of ``torch.compile``.
        keep_gathered: keep gathered parameters from one forward to the next (of a trained network until its backward)
            instead of gathering them again: see :func:`gather_nothing`.

    Raises:
        ValueError: parameters of several dtypes are to be trained and sharded.
    """
    pinned = {"pinned": network.shared.pinned} if isinstance(network, Role) else {}
    network = base_of(network)
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.requires_grad}
    if mesh is not None and len(dtypes) > 1:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"network must be trained in one dtype where several processes share it, got {names}: set model.dtype to "
            "float32, or tune to lora"
        )
    trained = bool(dtypes)
    blocks = blocks_of(network) or [network]
    for block in blocks:
        forward: Callable = block.forward
        if trained and config.activation_checkpointing != "none":
            forward = recomputed(forward, selective=config.activation_checkpointing == "selective", **pinned)
        if compile:
            forward = torch.compile(forward, backend=compile if isinstance(compile, str) else "inductor")
        if forward != block.forward:
            # The forward rather than the module: the hooks that gather the parameters stay outside, so that they are
            # neither traced nor run again when activations are recomputed.
            block.forward = forward
    if mesh is None:
        return
    policy = MixedPrecisionPolicy(
        param_dtype=_dtype(config.gather_dtype),
        reduce_dtype=_dtype(config.reduce_dtype),
        cast_forward_inputs=False,  # the times, whose rounding a finite difference amplifies, come in float32
    )
    for block in blocks:
        if block is not network:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep_gathered)
    # What is left, embeddings and last layer, is the first that a backward needs: None keeps it until then.
    rest = None if trained else not keep_gathered
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=rest)


def blocks_of(network: nn.Module, names: Collection[str] | None = None) -> list[nn.Module]:
    """The modules of each ``ModuleList`` of these names, at any depth.

    Without ``names``, they are those that a module in ``network`` has as ``block_names``, or else ``blocks``.
    """
    if names is None:
        names = {name for module in network.modules() for name in getattr(module, "block_names", ())} or {"blocks"}
    lists = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in names
    ]
    return [block for modules in lists for block in modules]


def is_sharded(network: nn.Module) -> bool:
    """Whether :func:`parallelize` has sharded ``network``."""
    return isinstance(base_of(network), FSDPModule)


def gather_nothing(network: nn.Module) -> None:
    """Free the gathered parameters of ``network``, so that they are its shards again.

    Call it after the forwards of a network that has no backward, before its parameters are written or read. Of a role,
    the base is freed, for all roles.
    """
    network = base_of(network)
    if not isinstance(network, FSDPModule):
        return
    if hasattr(network, "reset_iter_state"):
        # It also forgets the order of the forwards, which FSDP keeps for a backward and which would else grow for ever.
        # Before the first forward it fails, and there is nothing to free.
        if network._get_fsdp_state()._is_root:
            network.reset_iter_state()
        return
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def synchronise_gradients(network: nn.Module, value: bool) -> None:
    """Whether the next backward sums the gradients over the processes: false for all micro-batches but the last."""
    network = base_of(network)
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(value)


def _dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else getattr(torch, name)
