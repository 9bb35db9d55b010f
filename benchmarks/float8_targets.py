"""Effect of float8 in the forwards without gradient on ``dF/dt`` and on RCGM's residual.

python -m benchmarks.float8_targets

The networks are the random ones of math.md section 6. In float8, what goes into a matrix multiplication and its weights
are rounded to ``float8_e4m3fn`` with one scale a row, as torchao's dynamic float8 inference does; sums are float32
and results bfloat16. That is emulated; on a GPU with torchao, its kernels are measured too. "Blocks" leaves everything
made from the times out of it, and the first and the last layer.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import environment
from benchmarks.fidelity import recursive_residual
from benchmarks.fidelity_problems import Problem, random_problem, with_exact
from rcgm.derivatives import Central

LARGEST = torch.finfo(torch.float8_e4m3fn).max
BLOCK_LAYERS = ("qkv", "out", "up", "down")
SAMPLES = 2
STEPS = (0.25, 0.125, 0.0625, 0.03125, 0.005)
GAPS = (0.05, 0.1)


def rounded_to_float8(x: Tensor) -> Tensor:
    """``x`` ``[..., n]`` rounded to float8_e4m3fn under a scale for each row, as float32; a row of zeros stays so."""
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn).float() * scale


def rounded_to_half(x: Tensor) -> Tensor:
    """``x`` rounded to float16, as float32."""
    return x.half().float()


class RoundedLinear(nn.Module):
    """A linear layer as tensor cores compute it in a narrow format: exact products, sums in float32.

    Args:
        layer: whose weight is rounded once, and whose inputs are rounded as they come.
        rounded: what rounds them.
        result: dtype of what the layer returns.
    """

    def __init__(self, layer: nn.Linear, rounded: Callable[[Tensor], Tensor], result: torch.dtype) -> None:
        super().__init__()
        self.rounded, self.result = rounded, result
        self.register_buffer("weight", rounded(layer.weight.detach()))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """``[..., n]`` of any floating dtype to ``[..., m]``."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(self.rounded(x), self.weight, self.bias).to(self.result)


def with_layers(network: nn.Module, make: Callable[[nn.Linear], nn.Module], wanted: Callable[[str], bool]) -> nn.Module:
    """A copy of ``network`` with ``make(layer)`` for its linear layers of the ``wanted`` names."""
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear) and wanted(name):
            network.set_submodule(name, make(layer))
    return network


def in_float8(network: nn.Module, wanted: Callable[[str], bool]) -> nn.Module:
    """A copy of ``network`` in which the linear layers of the ``wanted`` names are in emulated float8."""
    return with_layers(network, lambda layer: RoundedLinear(layer, rounded_to_float8, torch.bfloat16), wanted)


def everywhere(name: str) -> bool:
    return True


def is_of_block(name: str) -> bool:
    return name.rpartition(".")[2] in BLOCK_LAYERS


def by_torchao(network: nn.Module) -> nn.Module:
    """A copy with the layers of the blocks in torchao's float8: a scale for each row, of weights and of inputs."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    network = copy.deepcopy(network)
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    quantize_(network, config, filter_fn=lambda layer, name: isinstance(layer, nn.Linear) and is_of_block(name))
    return network


def variants(network: nn.Module) -> Iterator[tuple[str, nn.Module, torch.dtype]]:
    """Name, network and autocast of each format."""
    on_gpu = next(network.parameters()).is_cuda
    yield "float32", network, torch.float32
    # most CPUs multiply matrices of float16 a hundred times slower than their rounded values
    half = network if on_gpu else with_layers(
        network, lambda layer: RoundedLinear(layer, rounded_to_half, torch.float16), everywhere
    )  # fmt: skip
    yield "float16", half, torch.float16
    yield "bfloat16", network, torch.bfloat16
    yield "float8 in the blocks", in_float8(network, is_of_block), torch.bfloat16
    yield "float8 everywhere", in_float8(network, everywhere), torch.bfloat16
    if on_gpu and importlib.util.find_spec("torchao") is not None:
        yield "float8 in the blocks, torchao", by_torchao(network), torch.bfloat16


def residual_errors(problem: Problem, network: nn.Module, dtype: torch.dtype) -> dict[str, float]:
    """Relative error of RCGM's ``zeta`` of order 2, all its forwards in a format, by ``dt``."""
    errors = {}
    for dt in GAPS:
        exact = recursive_residual(problem, dt, torch.float64, torch.float64)
        found = recursive_residual(replace(problem, network=network), dt, dtype, dtype)
        errors[str(dt)] = ((found - exact).norm() / exact.norm()).item()
    return errors


def measure(name: str, device: torch.device) -> list[dict[str, object]]:
    """Every format on the random network ``name``, ``"low"`` or ``"high"``."""
    problem = random_problem(name)
    few = {field: getattr(problem, field)[:SAMPLES].to(device) for field in ("x", "velocity", "t", "r")}
    problem = with_exact(replace(problem, network=problem.network.to(device), **few))
    rows = []
    for label, network, dtype in variants(problem.network):
        errors = {step: problem.error(network, Central(step), dtype) for step in STEPS}
        step = min(errors, key=errors.__getitem__)
        rows.append({
            "problem": problem.name, "format": label, "papers_step": errors[STEPS[-1]],
            "best": {"step": step, "error": errors[step]}, "residual": residual_errors(problem, network, dtype),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for name in ("low", "high") for row in measure(name, device)]
    result = {"environment": environment.describe(device), "rows": rows, "seconds": time.perf_counter() - began}
    print(f"written to {environment.write('float8_targets', result)} in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
