"""The training-step benchmark: its variants are what they say, and it runs, small."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from torch.torch_version import TorchVersion

from benchmarks import environment, forward_mode, limits, steps
from benchmarks.forward_mode import JvpMeanFlow, by_block, by_dual_numbers, by_transform, flash_jvp_attention
from benchmarks.memory import allocations, held, high_water
from benchmarks.step_variants import TIMES, VARIANTS, Bench
from rcgm.derivatives import ForwardMode
from rcgm.models import DiT
from rcgm.objectives import MeanFlow

CPU = torch.device("cpu")
SHAPE = (4, 8, 8)
EAGER = "eager"  # the compiler's front end alone, which takes seconds


def randomised(network: DiT) -> DiT:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network


@pytest.fixture(scope="module")
def bench() -> Bench:
    bench = Bench("nano/2", SHAPE, CPU, torch.float32, depth=2)
    randomised(bench.network)
    return bench


def loss_and_gradient(objective, network: DiT) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    network.zero_grad()
    output = objective(network, x, torch.tensor([1, 2, 3]), generator=torch.Generator().manual_seed(2))
    output.loss.backward()
    return output.loss.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("form", ["transform", "dual", "block"])
def test_every_form_of_jvp_is_the_estimators(bench, form, gradient):
    derivative = {
        "transform": lambda: by_transform, "dual": lambda: by_dual_numbers,
        "block": lambda: by_block(bench.network, EAGER),
    }[form]()  # fmt: skip
    expected = loss_and_gradient(MeanFlow(times=TIMES, derivative=ForwardMode()), bench.network)
    actual = loss_and_gradient(JvpMeanFlow(MeanFlow(times=TIMES), derivative, gradient), bench.network)
    assert expected[1].norm() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_every_block_shares_one_compiled_graph():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    network = randomised(DiT.from_preset("nano/2", input_size=8, in_channels=4, num_classes=10, depth=3))
    loss_and_gradient(JvpMeanFlow(MeanFlow(times=TIMES), by_block(network, EAGER), True), network)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_sides_train_the_same_parameters(bench):
    before = [parameter.detach().clone() for parameter in bench.network.parameters()]
    known = {parameter.data_ptr() for parameter in bench.network.parameters()}
    for variant in VARIANTS:
        if variant.flash_jvp:
            continue
        bench.step(variant, 2)()
        assert {parameter.data_ptr() for parameter in bench.network.parameters()} == known
        after = list(bench.network.parameters())
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), variant.name
        before = [parameter.detach().clone() for parameter in after]


def test_a_compiled_side_takes_the_same_step():
    variant = next(variant for variant in VARIANTS if variant.name == "MeanFlow, central difference")
    results = []
    for compiler in (None, EAGER):
        torch.manual_seed(0)
        bench = Bench("nano/2", SHAPE, CPU, torch.float32)
        randomised(bench.network)
        bench.step(variant, 2, compiler)()
        results.append(torch.cat([parameter.detach().flatten() for parameter in bench.network.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_attention_with_the_flash_kernel_fills_up_heads(bench, monkeypatch: pytest.MonkeyPatch):
    seen = []

    class Kernel:
        @staticmethod
        def fwd_dual(q, k, v, sm_scale):
            seen.append(q.shape[-1])
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=sm_scale)

    module = type(torch)("jvp_flash_attention.jvp_attention")
    module.JVPAttn = Kernel
    monkeypatch.setitem(__import__("sys").modules, "jvp_flash_attention", type(torch)("jvp_flash_attention"))
    monkeypatch.setitem(__import__("sys").modules, "jvp_flash_attention.jvp_attention", module)
    network = randomised(DiT.from_preset("nano/2", input_size=8, in_channels=4, num_classes=10, hidden_size=24))
    objective = JvpMeanFlow(MeanFlow(times=TIMES), by_transform, True)
    expected = loss_and_gradient(objective, network)
    forward_mode.use_flash_jvp(network)
    assert network.blocks[0].attn.attend is flash_jvp_attention
    torch.testing.assert_close(loss_and_gradient(objective, network), expected, rtol=1e-4, atol=1e-6)
    assert set(seen) == {16}


def test_high_water_counts_what_is_alive_together():
    def work() -> None:
        first = torch.empty(1000)
        second = torch.empty(500)
        del first
        third = torch.empty(200)
        del second, third

    assert high_water(work, CPU) == 6000


def test_events_that_the_profiler_loses_are_measured_again(monkeypatch):
    profile = torch.profiler.profile
    lost = iter([True, True, False])

    def losing(**options):
        """A profiler that ends before the work does, as it was seen to."""
        profiler = profile(**options)
        return ended(profiler) if next(lost, True) else profiler

    @contextlib.contextmanager
    def ended(profiler):
        with profiler:
            torch.empty(1_234_567, dtype=torch.uint8)
        yield profiler

    monkeypatch.setattr(torch.profiler, "profile", losing)
    assert allocations(lambda: torch.empty(10)) == [40, -40]
    with pytest.raises(RuntimeError, match="lost memory events in each of 5 attempts"):
        allocations(lambda: torch.empty(10))


def test_what_is_held_counts_views_once():
    tensor = torch.empty(10)
    assert held([tensor, tensor[2:], torch.empty(5)]) == 60


def test_what_forward_mode_cannot_do_is_told():
    outcomes = {item["combination"]: item["outcome"] for item in limits.attempts(CPU, EAGER)}
    assert "does not support it" in outcomes["FlashAttention (SDPBackend.FLASH_ATTENTION)"]
    assert outcomes["compiled jvp"] == limits.WORKS
    error = "NotImplementedError" if torch.__version__ < TorchVersion("2.12") else "CheckpointError"
    assert outcomes["activation checkpointing of the blocks, with gradient"].startswith(error)
    assert len(outcomes) == len(limits.ATTEMPTS)


def test_a_compiled_network_is_not_compiled_within_a_jvp(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "ATTEMPTS", {"inside": limits.ATTEMPTS["jvp of a compiled network"]})
    assert "nothing is compiled" in limits.attempts(CPU, "aot_eager")[0]["outcome"]


def test_the_benchmark_runs_small(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    monkeypatch.setattr(limits, "ATTEMPTS", {})
    steps.main(["--preset", "nano/2", "--batches", "2", "--rounds", "1", "--name", "trial"])
    result = json.loads((tmp_path / "trial.json").read_text())
    rows = {row["variant"]: row for row in result["rows"]}
    assert set(rows) == {variant.name for variant in VARIANTS}
    assert rows["flow matching"]["times_flow_matching"] == 1
    for row in rows.values():
        assert (row["error"] is None) == (row["peak_bytes"] is not None)
    # through the student's forward, every activation has a tangent beside it until the loss
    assert rows["MeanFlow, jvp with gradient"]["peak_bytes"] > 1.2 * rows["flow matching"]["peak_bytes"]
    assert "x flow matching" in capsys.readouterr().out
