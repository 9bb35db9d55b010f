"""Published networks whose blocks are recomputed or compiled one by one."""

import pytest
import torch

pytest.importorskip("diffusers")

from rcgm.config import ParallelConfig
from rcgm.distributed import blocks_of, parallelize
from rcgm.networks import NETWORKS
from tests.support.tiny_networks import FAMILIES


def gradients(name: str, kind: str) -> tuple[list[torch.Tensor], int]:
    """Those of the network's own parameters, and how often a block was run."""
    family = FAMILIES[name]
    network = NETWORKS[name](family.build())
    runs = []
    for block in blocks_of(network):
        next(iter(block.children())).register_forward_hook(lambda *_: runs.append(1))
    parallelize(network, ParallelConfig(activation_checkpointing=kind), None, keep_gathered=False)
    x = torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.9, 0.3])
    network(x, t, t / 2, family.cond(2)).square().sum().backward()
    return [parameter.grad for parameter in network.transformer.parameters()], len(runs)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputed_blocks_give_the_same_gradients(name, kind):
    expected, once = gradients(name, "none")
    got, twice = gradients(name, kind)
    assert once > 0 and twice == 2 * once
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", ["qwen_image", "wan"])
def test_compiled_blocks_give_the_same_output(name):
    family = FAMILIES[name]
    x = torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.9, 0.3])
    plain, compiled = (NETWORKS[name](family.build()).requires_grad_(False) for _ in range(2))
    parallelize(compiled, ParallelConfig(), None, compile="aot_eager", keep_gathered=False)
    arguments = (x, t, t / 2, family.cond(2))
    torch.testing.assert_close(compiled(*arguments), plain(*arguments))
