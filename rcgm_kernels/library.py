"""Registration of the operations with torch: compile, autocast, FSDP and fake tensors treat them as torch's own.

``torch.library.custom_op`` would do, but its autograd layer for operations that take lists of tensors costs over 100
microseconds a call, as much as the whole operation on small latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

LIBRARY = torch.library.Library("rcgm_kernels", "DEF")


def define(schema: str, implementation: Callable, *, fake: Callable, autograd: Callable | None = None) -> None:
    """Register one operation: its kernel for every device, its shapes, and what autograd does with it."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rcgm_kernels::{name}", fake, lib=LIBRARY)
    if autograd is not None:
        LIBRARY.impl(name, autograd, "Autograd")
