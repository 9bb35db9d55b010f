"""Frozen weights in 8 or 4 bits: by torchao while they are loaded, or by bitsandbytes afterwards.

Weights alone: inputs are multiplied by them in their own format. Layers that round their inputs too, as those of
LLM.int8(), add noise to every evaluation, which objectives divide by a short distance in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["QUANTIZATIONS", "in_four_bits", "loading_options"]

QUANTIZATIONS = ("none", "int8", "nf4")
"""Formats of frozen weights: as loaded, 8 bits with a scale for each row, or 4 bits with one for every 64 weights."""
TIME_EMBEDDINGS = ("timestep_embedder", "time_embedder", "t_embedder", "timestep_embedder_r", "delta_embedder")
"""Layers that keep their format: they run in float32."""


def loading_options(quantization: str) -> Mapping[str, Any]:
    """What diffusers' ``from_pretrained`` has to be told to quantize weights while it loads them.

    Raises:
        ModuleNotFoundError: the package that quantizes, then or later, is not installed.
    """
    try:
        if quantization == "int8":
            from diffusers import TorchAoConfig
            from torchao.quantization import Int8WeightOnlyConfig

            config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(TIME_EMBEDDINGS))
            return {"quantization_config": config}
        if quantization == "nf4":
            import bitsandbytes  # noqa: F401
    except ModuleNotFoundError as error:
        package = {"int8": "torchao", "nf4": "bitsandbytes"}[quantization]
        raise ModuleNotFoundError(
            f"quantization {quantization} needs the package {package}: pip install {package}", name=package
        ) from error
    return {}


def in_four_bits(transformer: nn.Module) -> nn.Module:
    """Replace the linear layers of ``transformer`` but those of the times by layers of 4 bits (nf4), and return it.

    On the CPU, where the same weights become the same bits on every machine; diffusers itself needs a GPU for it.

    Source: Dettmers et al. 2023 (QLoRA).
    """
    import bitsandbytes

    for name, layer in list(transformer.named_modules()):
        if type(layer) is not nn.Linear or not set(name.split(".")).isdisjoint(TIME_EMBEDDINGS):
            continue
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        quantized = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=layer.weight.dtype, quant_type="nf4")
        # where the processor has AVX-512 for bfloat16, evaluation would pack weights anew and round inputs to bfloat16
        quantized.support_avx512bf16_for_cpu = False
        quantized.load_state_dict(layer.state_dict())
        if quantized.bias is not None:
            quantized.bias.data = quantized.bias.data.to(layer.weight.dtype)
        parent, _, own = name.rpartition(".")
        setattr(transformer.get_submodule(parent), own, quantized.to("cpu").train(layer.training))
    return transformer
