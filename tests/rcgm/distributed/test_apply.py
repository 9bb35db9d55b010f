import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rcgm.config import ConfigError, ParallelConfig, apply_overrides, parse_config
from rcgm.distributed import blocks_of, gather_nothing, is_sharded, make_mesh, parallelize, running_processes
from rcgm.distributed.processes import lost_process
from rcgm.distributed.shares import Processes
from rcgm.models import MLP, DiT


def build(**style) -> DiT:
    network = DiT.from_preset("micro/2", input_size=4, in_channels=1, num_classes=3, **style)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return network


def gradients(network: nn.Module) -> list[torch.Tensor]:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.9, 0.3])
    network(x, t, t / 2, torch.tensor([0, 2])).square().sum().backward()
    return [parameter.grad for parameter in network.parameters()]


def test_blocks_are_found_at_any_depth():
    network = build()
    assert blocks_of(network) == list(network.blocks)
    assert blocks_of(nn.Sequential(network)) == list(network.blocks)
    assert blocks_of(MLP(dim=2, width=4)) == []


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputation_computes_again_and_gives_the_same_gradients(kind):
    expected = gradients(build())
    network = build()
    count = []
    for block in network.blocks:
        block.mlp.fc1.register_forward_hook(lambda *_: count.append(1))
    parallelize(network, ParallelConfig(activation_checkpointing=kind), None, keep_gathered=False)
    assert all(torch.equal(a, b) for a, b in zip(expected, gradients(network), strict=True))
    assert len(count) == 2 * len(network.blocks)


@pytest.mark.parametrize("kind", ["none", "selective", "full"])
def test_blocks_that_are_given_rotations_and_the_interval(kind):
    style = {"norm": "rms_gain", "feed_forward": "swiglu", "positions": "rope", "interval_aware": True}
    expected = gradients(build(**style))
    network = build(**style)
    parallelize(network, ParallelConfig(activation_checkpointing=kind), None, compile="aot_eager", keep_gathered=False)
    for got, wanted in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


class Products(TorchDispatchMode):
    """Counts the products of linear layers that are computed, rather than taken from what was kept."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator is torch.ops.aten.addmm.default
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "again"), [("selective", 0), ("full", 1)])
def test_selective_recomputation_keeps_matrix_products(kind, again):
    network = build()
    linear = sum(isinstance(module, nn.Linear) for module in network.blocks.modules())
    with Products() as plain:
        gradients(network)
    network = build()
    parallelize(network, ParallelConfig(activation_checkpointing=kind), None, keep_gathered=False)
    with Products() as counted:
        gradients(network)
    assert linear > 0 and counted.count - plain.count == again * linear


def test_parameters_of_two_dtypes_are_not_sharded():
    network = build()
    network.final_layer.to(torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"network must be trained in one dtype .* got bfloat16 and float32: set model"
    ):
        parallelize(network, ParallelConfig(), object(), keep_gathered=False)
    parallelize(network, ParallelConfig(), None, keep_gathered=False)


def test_names_stay_as_they_are():
    network = build()
    names = list(network.state_dict())
    config = ParallelConfig(activation_checkpointing="selective")
    parallelize(network, config, None, compile="aot_eager", keep_gathered=False)
    assert list(network.state_dict()) == names


def test_a_frozen_network_is_not_recomputed():
    network = build().requires_grad_(False)
    parallelize(network, ParallelConfig(activation_checkpointing="full"), None, keep_gathered=True)
    assert all("forward" not in vars(block) for block in network.blocks)


def test_one_process_shards_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with running_processes("cpu") as processes:
        assert processes == Processes(0, 1)
    assert not torch.distributed.is_initialized()
    assert make_mesh(ParallelConfig(), torch.device("cpu"), 1) is None
    network = build()
    parallelize(network, ParallelConfig(), None, keep_gathered=False)
    gather_nothing(network)
    assert not is_sharded(network)


def test_shards_of_a_copy_must_divide_the_processes():
    with pytest.raises(ValueError, match="shard_size must divide the number of processes, 8, got 3"):
        make_mesh(ParallelConfig(shard="hybrid", shard_size=3), torch.device("cpu"), 8)


def test_shard_size_is_for_hybrid_alone():
    minimal = {"steps": 1, "batch_size": 1, "data": {"name": "digits"}, "model": {"name": "dit", "patch_size": 2},
               "objective": {"name": "rcgm"}}  # fmt: skip
    with pytest.raises(ConfigError, match="shard_size must be left out unless shard is hybrid"):
        parse_config(apply_overrides(minimal, ["parallel.shard_size=2"]))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:1234"), True),
        (torch.distributed.DistNetworkError("gone"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("timed out"), False),
    ],
)
def test_which_errors_say_that_a_process_is_gone(error, lost):
    assert lost_process(error) == lost
