"""Registration of the operations with torch: compile, autocast, FSDP and fake tensors treat them as torch's own.

``torch.library.custom_op`` would do, but its autograd layer for operations that take lists of tensors costs over 100
microseconds a call, as much as the whole operation on small latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LIBRARY = torch.library.Library("rcgm_kernels", "DEF")


def define(schema: str, implementation: Callable, *, fake: Callable, autograd: Callable | None = None) -> None:
    """Register one operation: its kernel for every device, its shapes, and what autograd does with it."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rcgm_kernels::{name}", fake, lib=LIBRARY)
    if autograd is not None:
        LIBRARY.impl(name, autograd, "Autograd")


def is_plain(*tensors: Tensor) -> bool:
    """Whether nobody but the kernel wants to know of a call: no compiler, mode, transform or kind of tensor.

    The dispatcher would then only cost time, of which there is none to spare on small latents on a CPU.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
    )
