"""NVIDIA apex's optimizer by a stand-in that keeps its state and takes its arguments as apex does."""

import sys
import types

import pytest
import torch
from torch import nn

from rcgm.config import ConfigError, OptimizerConfig
from rcgm.training import apex
from rcgm.training.optimizers import (
    build_optimizer,
    empty_optimizer_state,
    export_optimizer,
    import_optimizer,
    set_learning_rate,
)

CONFIG = {"lr": 0.05, "weight_decay": 0.1, "betas": (0.9, 0.95)}


class FusedAdam(torch.optim.Optimizer):
    """The number of steps belongs to the group, and ``zero_grad`` takes no argument."""

    def __init__(
        self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True, weight_decay=0.0,
        amsgrad=False, set_grad_none=True, capturable=False, master_weights=False,
    ):  # fmt: skip
        assert adam_w_mode and bias_correction and not (amsgrad or capturable or master_weights)
        defaults = {"lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    def zero_grad(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if len(state) == 0:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["exp_avg"].lerp_(parameter.grad, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                mean = state["exp_avg"] / (1 - first ** group["step"])
                root = (state["exp_avg_sq"] / (1 - second ** group["step"])).sqrt()
                parameter -= group["lr"] * (mean / (root + group["eps"]) + group["weight_decay"] * parameter)


FusedAdam.__module__ = "apex.optimizers.fused_adam"


def install(monkeypatch, optimizers=None, available=True):
    modules = {name: types.ModuleType(name) for name in ("apex", "apex.optimizers", "apex.multi_tensor_apply")}
    vars(modules["apex.optimizers"]).update(optimizers or {})
    modules["apex.multi_tensor_apply"].multi_tensor_applier = types.SimpleNamespace(available=available)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def installed(monkeypatch):
    """Apex, and parameters that seem to lie on a GPU."""
    install(monkeypatch, {"FusedAdam": FusedAdam})
    monkeypatch.setattr(apex, "on_gpu", lambda tensor: True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).double()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_is_chosen_where_it_is_installed(installed):
    assert type(build_optimizer(OptimizerConfig(), network())) is FusedAdam
    assert type(build_optimizer(OptimizerConfig(fused="apex"), network())) is FusedAdam
    assert type(build_optimizer(OptimizerConfig(fused="torch"), network())) is torch.optim.AdamW
    assert type(build_optimizer(OptimizerConfig(name="radam"), network())) is torch.optim.RAdam


def test_trains_as_torch_does(installed):
    ours, theirs = network(), network()
    train(ours, build_optimizer(OptimizerConfig(**CONFIG), ours), range(9))
    train(theirs, build_optimizer(OptimizerConfig(**CONFIG, fused="torch"), theirs), range(9))
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("later", ["apex", "torch"])
@pytest.mark.parametrize("before", ["apex", "torch"])
def test_goes_on_with_either(before, later, installed):
    straight, stopped = network(), network()
    train(straight, build_optimizer(OptimizerConfig(**CONFIG, fused=later), straight), range(12))
    first = build_optimizer(OptimizerConfig(**CONFIG, fused=before), stopped)
    train(stopped, first, range(7))
    saved = export_optimizer(first, stopped)
    assert saved["0.weight/step"] == 7

    resumed = network()
    resumed.load_state_dict(stopped.state_dict())
    layout = {name: (tensor.shape, tensor.dtype) for name, tensor in saved.items()}
    tensors = empty_optimizer_state(layout, resumed)
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
    second = build_optimizer(OptimizerConfig(**CONFIG, fused=later), resumed)
    import_optimizer(second, resumed, tensors)
    set_learning_rate(second, 0.05)
    train(resumed, second, range(7, 12))
    for got, expected in zip(resumed.parameters(), straight.parameters(), strict=True):
        if before == later:
            assert torch.equal(got, expected)
        torch.testing.assert_close(got, expected)


def test_a_checkpoint_of_before_the_first_step(installed):
    model = network()
    optimizer = build_optimizer(OptimizerConfig(**CONFIG), model)
    assert export_optimizer(optimizer, model) == {}
    import_optimizer(optimizer, model, {})
    train(model, optimizer, range(1))
    assert export_optimizer(optimizer, model)["0.weight/step"] == 1


def test_the_other_apex_of_pypi_is_not_taken_for_it(monkeypatch):
    monkeypatch.setattr(apex, "on_gpu", lambda tensor: True)
    for name in ("apex.optimizers", "apex.multi_tensor_apply"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    assert type(build_optimizer(OptimizerConfig(), network())) is torch.optim.AdamW
    with pytest.raises(ValueError, match=r"optimizer.fused cannot be apex: NVIDIA apex is not installed .*NVIDIA/apex"):
        build_optimizer(OptimizerConfig(fused="apex"), network())


def test_without_its_extensions(monkeypatch):
    monkeypatch.setattr(apex, "on_gpu", lambda tensor: True)
    install(monkeypatch, {"FusedAdam": FusedAdam}, available=False)
    with pytest.raises(ValueError, match="NVIDIA apex is installed without its CUDA extensions"):
        build_optimizer(OptimizerConfig(fused="apex"), network())


def test_on_the_cpu(monkeypatch):
    install(monkeypatch, {"FusedAdam": FusedAdam})
    assert type(build_optimizer(OptimizerConfig(), network())) is torch.optim.AdamW
    with pytest.raises(ValueError, match=r"optimizer.fused cannot be apex: it runs on a GPU alone"):
        build_optimizer(OptimizerConfig(fused="apex"), network())


def test_radam_has_no_fused_form(tiny_config):
    with pytest.raises(
        ConfigError, match="fused must be left out for optimizers other than adamw, got apex with radam"
    ):
        tiny_config("optimizer.name=radam", "optimizer.fused=apex")
