"""The moving average of a model's parameters."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rcgm_kernels import ema_update_
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import HALVES, every
from tests.support.implementations import cpu_implementations, running, threads

SHAPES = ((), (1,), (0,), (3,), (511,), (512,), (513,), (4, 1025), (2, 0, 3), (40_000,))
MASTERS = (torch.float32, torch.float64)


@given(
    shapes=st.lists(st.sampled_from(SHAPES), max_size=6),
    decay=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.9999, 1.0]),
    param_dtypes=st.lists(st.sampled_from(STORAGE_DTYPES), min_size=1, max_size=3),
    masters=st.lists(st.sampled_from(MASTERS), min_size=1, max_size=2),
    copy_dtypes=st.one_of(st.none(), st.lists(st.sampled_from(STORAGE_DTYPES), min_size=1, max_size=3)),
    seed=st.integers(0, 1000),
)
@every(150)
def test_it_is_the_formula_in_float64_rounded(shapes, decay, param_dtypes, masters, copy_dtypes, seed):
    generator = torch.Generator().manual_seed(seed)

    def tensors(dtypes: list[torch.dtype]) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtypes[i % len(dtypes)]) for i, shape in enumerate(shapes)]

    start, params = tensors(masters), tensors(param_dtypes)
    copies = None if copy_dtypes is None else tensors(copy_dtypes)
    for implementation in cpu_implementations():
        averages = [tensor.clone() for tensor in start]
        targets = None if copies is None else [torch.full_like(tensor, torch.nan) for tensor in copies]
        with running(implementation) as backend:
            ema_update_(averages, params, decay, targets, backend=backend)
        for before, param, after in zip(start, params, averages, strict=True):
            exact = decay * before.double() + (1 - decay) * param.double()
            tolerance = 2**-22 if after.dtype == torch.float32 else 2**-50
            assert ((after.double() - exact).abs() <= tolerance * (before.double().abs() + param.double().abs())).all()
            if decay == 1:
                assert torch.equal(after, before)
            if decay == 0:
                assert torch.equal(after, param.to(after.dtype))
        for after, target in zip(averages, targets or averages, strict=True):
            assert torch.equal(target, after.to(target.dtype))


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_by_hand(implementation):
    average, copy_ = torch.tensor([8.0, -4.0]), torch.zeros(2, dtype=torch.bfloat16)
    with running(implementation) as backend:
        for param in (0.0, 16.0):
            ema_update_([average], [torch.tensor([param, param])], 0.75, [copy_], backend=backend)
    assert average.tolist() == [0.75 * 6 + 4, 0.75 * -3 + 4]
    assert copy_.tolist() == average.tolist()


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_warming_up_by_hand(implementation):
    # The decays of the reference code, d <- d + (1 - d)(0.999 - d)/2 from 0 (math.md, section 2), and what they make of
    # 1, 2 and 4: 1, then 0.4995 + 0.5005 * 2, then 0.6245 of that + 0.3755 * 4.
    average = torch.tensor([5.0])
    with running(implementation) as backend:
        for decay, param, expected in ((0.0, 1.0, 1.0), (0.4995, 2.0, 1.5005), (0.62449988, 4.0, 2.43906255)):
            ema_update_([average], [torch.tensor([param])], decay, backend=backend)
            assert average.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_steps_smaller_than_the_rounding_of_16_bits_are_kept(implementation):
    average, param = torch.ones(1000), torch.full((1000,), 1.001953125, dtype=torch.float16)
    with running(implementation) as backend:
        for _ in range(1000):
            ema_update_([average], [param], 0.999, backend=backend)
    expected = 1 + 0.001953125 * (1 - 0.999**1000)
    torch.testing.assert_close(average, torch.full((1000,), expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_parameters_may_have_any_strides_and_need_a_gradient(implementation):
    param = nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
    average = nn.Parameter(torch.zeros(4, 3))
    with running(implementation) as backend:
        ema_update_([average], [param], 0.5, backend=backend)
    assert torch.equal(average, param / 2)
    assert average.requires_grad
    assert average.grad_fn is None


LAYOUTS = {
    "contiguous": lambda values: values.clone(memory_format=torch.contiguous_format),
    "channels_last": lambda values: values.clone(memory_format=torch.channels_last),
    "transposed": lambda values: values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1),
}


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("average", LAYOUTS)
@pytest.mark.parametrize("param", [*LAYOUTS, "gaps"])
@pytest.mark.parametrize("copy_", LAYOUTS)
def test_dense_tensors_of_any_order(implementation, average, param, copy_):
    generator = torch.Generator().manual_seed(0)
    start, values = torch.randn(2, 6, 4, 3, 5, generator=generator)
    averages, targets = LAYOUTS[average](start), LAYOUTS[copy_](torch.full(start.shape, torch.nan).bfloat16())
    params = torch.stack([values, values], -1)[..., 0] if param == "gaps" else LAYOUTS[param](values)
    strides = averages.stride(), targets.stride()
    with running(implementation) as backend:
        ema_update_([averages], [params], 0.75, [targets], backend=backend)
    torch.testing.assert_close(averages, 0.75 * start + 0.25 * values)
    assert torch.equal(targets, averages.bfloat16())
    assert (averages.stride(), targets.stride()) == strides


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("direct", [False, True])
def test_what_is_written_shares_no_memory(implementation, direct):
    memory = torch.arange(24.0)
    a, b, c = memory[:8], memory[8:16], memory[16:]
    own = [torch.ones(8), torch.ones(8)]

    def refused(message: str, *arguments: list[Tensor]) -> None:
        averages, params, copies = arguments
        call = torch.ops.rcgm_kernels.ema_update_ if direct else ema_update_
        with pytest.raises(ValueError, match=message):
            call(averages, params, 0.5, copies if direct or copies else None, backend=backend)

    with running(implementation) as backend:
        refused(r"ema_params\[1\] must share no memory with ema_params\[0\]: both are written", [a, a], own, [])
        refused(r"ema_params\[1\] must share no memory with ema_params\[0\]", [a, memory[7:15]], own, [])
        refused(r"cast_to\[0\] must share no memory with ema_params\[1\]", [a, b], own, [b, c])
        refused(r"cast_to\[0\] must share no memory with ema_params\[0\]", [a], own[:1], [a])
        refused(r"cast_to\[1\] must share no memory with cast_to\[0\]", own, [a, a], [c, c])
        refused(r"ema_params\[0\] must share no memory with params\[1\]: it is written", [a, b], [own[0], a], [])
        refused(r"ema_params\[0\] must share no memory with params\[0\] in part", [a], [memory[1:9]], [])
        refused(r"cast_to\[0\] must share no memory with params\[0\] in part", own[:1], [a], [memory[1:9]])
        assert torch.equal(memory, torch.arange(24.0))
        assert all((tensor == 1).all() for tensor in own)
        # Parts of one memory, a parameter twice, and an average or copy that is its own parameter are all right.
        ema_update_([a, b], own, 0.5, [c, torch.zeros(8)], backend=backend)
        assert torch.equal(c, a)
        ema_update_([a, b], [c, c], 0.0, backend=backend)
        assert torch.equal(b, c)
        ema_update_([a], [a], 0.25, backend=backend)
        assert torch.equal(a, c)
        ema_update_([own[0]], [a], 0.5, [a], backend=backend)
        assert torch.equal(a, (1 + c) / 2)


def test_a_module_and_its_buffers_through_generators():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    average = copy.deepcopy(model)
    for param in model.parameters():
        param.data.add_(1)
    before = [param.detach().clone() for param in average.parameters()]
    ema_update_(average.parameters(), model.parameters(), 0.75)
    for new, old in zip(average.parameters(), before, strict=True):
        torch.testing.assert_close(new.detach(), old + 0.25)


def test_nothing_to_average():
    ema_update_([], [], 0.5)
    ema_update_([], [], 0.5, [])


@pytest.mark.parametrize("implementation", cpu_implementations()[1:])
def test_results_do_not_depend_on_the_thread_count(implementation):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(size, generator=generator).bfloat16() for size in (70_001, 3, 5000, 1)]
    results = []
    for count in (1, 2, 3):
        averages = [torch.ones(param.shape) for param in params]
        copies = [torch.zeros_like(param) for param in params]
        with threads(count), running(implementation) as backend:
            ema_update_(averages, params, 0.9, copies, backend=backend)
        results.append([*averages, *copies])
    for tensors in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(tensors, results[0], strict=True))


@pytest.mark.parametrize("implementation", cpu_implementations())
def test_nothing_changes_when_an_argument_is_wrong(implementation):
    averages = [torch.ones(3), torch.ones(4)]
    with running(implementation) as backend, pytest.raises(ValueError, match=r"params\[1\]"):
        ema_update_(averages, [torch.zeros(3), torch.zeros(5)], 0.5, backend=backend)
    assert all((average == 1).all() for average in averages)


def test_an_average_overwritten_after_a_graph_saved_it_is_an_error():
    average, weight = torch.ones(3), torch.ones(3, requires_grad=True)
    loss = (weight * average).sum()
    ema_update_([average], [torch.zeros(3)], 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.fixture
def mesh() -> Iterator[dist.device_mesh.DeviceMesh]:
    """One process is a group, too."""
    if not dist.is_gloo_available():
        pytest.skip("needs gloo")
    variables = {"GLOO_SOCKET_IFNAME": "lo"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_sharded_parameters_are_updated_shard_by_shard(mesh, dtype):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    full = torch.arange(12.0).reshape(4, 3)
    param = nn.Parameter(distribute_tensor(full.to(dtype), mesh, [Shard(0)]))
    average = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
    target = distribute_tensor(torch.zeros(4, 3, dtype=torch.bfloat16), mesh, [Shard(0)])
    shard = average.to_local()
    ema_update_([average], [param], 0.5, [target])
    assert isinstance(average, DTensor)
    assert average.to_local().data_ptr() == shard.data_ptr()
    assert torch.equal(shard, full / 2)
    assert torch.equal(target.full_tensor(), (full / 2).bfloat16())
