"""The optimizer of a run and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rcgm.config import OptimizerConfig
from rcgm.training import apex

__all__ = [
    "build_optimizer",
    "empty_optimizer_state",
    "export_optimizer",
    "import_optimizer",
    "learning_rate",
    "set_learning_rate",
]


def build_optimizer(
    config: OptimizerConfig, network: nn.Module, objective_state: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW or RAdam, both with decoupled weight decay, over the parameters that take gradients.

    Weight decay applies to tensors of two and more dimensions of ``network``: shrinking a bias or a gain regularises
    nothing, and what an objective has learned (``objective_state``) is no part of the model.

    Raises:
        ValueError: ``config.fused`` is apex, and that cannot be used here.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    learned = (
        []
        if objective_state is None
        else [parameter for parameter in objective_state.parameters() if parameter.requires_grad]
    )
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        {"params": learned, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "radam":
        return torch.optim.RAdam(groups, lr=config.lr, betas=config.betas, eps=config.eps, decoupled_weight_decay=True)
    trained = [*parameters, *learned]
    obstacle = apex.obstacle(trained)
    if config.fused == "apex" and obstacle is not None:
        raise ValueError(f"optimizer.fused cannot be apex: {obstacle}")
    if obstacle is None and config.fused != "torch":
        return apex.fused_adam()(groups, lr=config.lr, betas=config.betas, eps=config.eps, adam_w_mode=True)
    fused = all(parameter.device.type == "cuda" for parameter in trained)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None)


def learning_rate(config: OptimizerConfig, step: int, steps: int | None = None) -> float:
    """The learning rate of step 0, 1, ... of a run of ``steps`` steps.

    It grows linearly to ``lr`` at the last of ``warmup_steps``, and falls by ``schedule`` in the last ``decay_steps``:
    the first of them still has ``lr``, and the step after the last one would have ``final_lr``.

    Args:
        steps: None for a run without a known end, whose rate does not fall.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant" or steps is None:
        return config.lr
    decay_steps = min(config.decay_steps or steps, steps - config.warmup_steps)
    passed = max(step - (steps - decay_steps), 0) / decay_steps
    left = 1.0 - passed if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
    return config.final_lr + (config.lr - config.final_lr) * left


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def export_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, objective_state: nn.Module | None = None
) -> dict[str, Tensor]:
    """The optimizer's tensors by ``parameter name/what``, such as ``blocks.0.attn.qkv.weight/exp_avg``.

    Those of ``objective_state`` have names that begin with ``objective/``.
    """
    # apex counts the steps of a group, torch those of a parameter: they are saved as torch has them.
    counted = {p: group["step"] for group in optimizer.param_groups if "step" in group for p in group["params"]}
    tensors = {}
    for name, parameter in _named_parameters(network, objective_state):
        state = dict(optimizer.state.get(parameter, {}))
        if state and parameter in counted:
            state["step"] = float(counted[parameter])
        for key, value in state.items():
            tensors[f"{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def empty_optimizer_state(
    layout: Mapping[str, tuple[torch.Size, torch.dtype]], network: nn.Module, objective_state: nn.Module | None = None
) -> dict[str, Tensor]:
    """Tensors to read what :func:`export_optimizer` gave into, by its names; sharded as their parameters are.

    Args:
        layout: shapes and dtypes by those names.
        network, objective_state: as there.
    """
    parameters = dict(_named_parameters(network, objective_state))
    tensors = {}
    for key, (shape, dtype) in layout.items():
        parameter = parameters.get(key.rpartition("/")[0])
        alike = parameter is not None and shape == parameter.shape and len(shape) > 0
        tensors[key] = torch.zeros_like(parameter, dtype=dtype) if alike else torch.zeros(shape, dtype=dtype)
    return tensors


def import_optimizer(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    tensors: dict[str, Tensor],
    objective_state: nn.Module | None = None,
) -> None:
    """Undo :func:`export_optimizer`.

    Raises:
        ValueError: a tensor is of a parameter that the network does not have or does not train.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        by_name.setdefault(name, {})[what] = tensor
    names = {id(parameter): name for name, parameter in _named_parameters(network, objective_state)}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    unknown = sorted(set(by_name) - set(order))
    if unknown:
        raise ValueError(f"optimizer state of '{unknown[0]}', which is no trained parameter of the network")
    counts = [by_name[name].pop("step") for name in by_name if apex.counts_by_group(optimizer)]
    # load_state_dict puts each tensor on the device that this optimizer wants it on, which differs by implementation.
    optimizer.load_state_dict(
        {
            "state": {index: by_name[name] for index, name in enumerate(order) if name in by_name},
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    if counts:
        for group in optimizer.param_groups:
            group["step"] = int(max(counts))


def _named_parameters(network: nn.Module, objective_state: nn.Module | None) -> Iterator[tuple[str, nn.Parameter]]:
    yield from network.named_parameters()
    if objective_state is not None:
        for name, parameter in objective_state.named_parameters():
            yield f"objective/{name}", parameter
