"""Registration of the operations with torch: compile, autocast, FSDP and fake tensors treat them as torch's own.

``torch.library.custom_op`` would do, but its autograd layer for operations that take lists of tensors costs over 100
microseconds a call, as much as the whole operation on small latents.

An operation can be called in two ways. A public function checks its arguments by their public names and calls the
implementation directly if the call is plain (:func:`is_plain`). All other calls go through torch's dispatcher. It
resolves tensors that are not what their memory holds (negative bit, zero tensor) and applies modes, transforms and
subclasses. Then it calls the implementation after the operation's own checks, so that ``torch.ops.rcgm_kernels`` is as
safe to call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

LIBRARY = torch.library.Library("rcgm_kernels", "DEF")


class Differentiable(torch.autograd.Function):
    """What autograd does with an operation: a function in the style that the transforms of ``torch.func`` need.

    A subclass has ``forward(*arguments)``, ``setup_context``, ``backward`` and ``jvp``, and takes tensors to
    differentiate by outside of lists. ``forward`` calls the operation below autograd.
    """

    generate_vmap_rule = True
    in_one: type[torch.autograd.Function]

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "forward" not in vars(cls) or cls.__name__.endswith("InOne"):
            return

        def forward(ctx, *arguments: object) -> object:
            outputs = cls.forward(*arguments)
            cls.setup_context(ctx, arguments, outputs)
            return outputs

        # Outside of transforms the two go in one: finding out how the arguments bind costs as much as a small loss.
        members = {"forward": staticmethod(forward), "setup_context": torch.autograd.Function.setup_context}
        cls.in_one = type(f"{cls.__name__}InOne", (cls,), members)

    @classmethod
    def call(cls, *arguments: object) -> object:
        """Apply the function, inside and outside of transforms."""
        return (cls if torch._C._are_functorch_transforms_active() else cls.in_one).apply(*arguments)


def define(
    schema: str,
    implementation: Callable,
    *,
    check: Callable,
    fake: Callable,
    autograd: Callable | None = None,
) -> None:
    """Register one operation: its kernel for every device, its shapes, and what autograd does with it.

    Args:
        schema: name, arguments and results, as torch writes them.
        implementation: the kernel; it may rely on what ``check`` has let pass.
        check: takes the arguments and raises for those that do not fit. It sees shapes, dtypes, devices and options,
            and no data, which fake tensors do not have.
        fake: makes results without data.
        autograd: what runs above the kernel where derivatives may be wanted.
    """
    name = schema.partition("(")[0]

    def checked(*arguments: object) -> object:
        check(*arguments)
        return implementation(*arguments)

    def checked_fake(*arguments: object) -> object:
        check(*arguments)
        return fake(*arguments)

    def above(*arguments: object) -> object:
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                f"torch.ops.rcgm_kernels.{name} cannot be differentiated inside of torch.func transforms: call the "
                "function of rcgm_kernels that it belongs to, which can"
            )
        return autograd(*arguments)

    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, checked, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rcgm_kernels::{name}", checked_fake, lib=LIBRARY)
    if autograd is not None:
        LIBRARY.impl(name, above, "Autograd")
    if "!" not in schema:
        torch.library.register_vmap(f"rcgm_kernels::{name}", functools.partial(_one_by_one, name), lib=LIBRARY)


def _one_by_one(name: str, info, dims: tuple, *arguments: object) -> tuple[object, object]:
    """What an operation does under ``torch.func.vmap``: a call for each entry. It has a batch of its own already."""

    def entry(index: int, value: object, dim: object) -> object:
        if isinstance(value, (list, tuple)):
            return [entry(index, *pair) for pair in zip(value, dim or [None] * len(value), strict=True)]
        return value if dim is None else value.select(dim, index)

    operation = getattr(torch.ops.rcgm_kernels, name)
    results = [operation(*map(functools.partial(entry, index), arguments, dims)) for index in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


PLAIN = {Tensor, nn.Parameter}


OBSERVERS = (
    torch._C._len_torch_dispatch_stack,
    torch._C._len_torch_function_stack,
    torch._C._functorch.peek_interpreter_stack,
    torch._C._get_tracing_state,
    lambda: forward_ad._current_level >= 0,
)
"""Each gives something true while a mode or a transform is on, which has to see every operation."""


def is_observed() -> bool:
    """True under a compiler, a mode or a transform, which have to see every operation."""
    return torch.compiler.is_compiling() or any(observer() for observer in OBSERVERS)


def is_special(tensors: Sequence[Tensor]) -> bool:
    """True if the memory of one of them is not what it stands for: negative bit, no memory, a wrapper of a transform.

    Conjugate tensors would be complex, which no operation takes.
    """
    return (
        any(map(Tensor.is_neg, tensors))
        or any(map(Tensor._is_zerotensor, tensors))
        or any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))  # also one that outlived its transform
    )


def is_plain(*tensors: Tensor | None) -> bool:
    """True if the dispatcher can be bypassed: nothing observes the call, and no tensor is special or of a subclass.

    On small latents on a CPU the dispatcher takes longer than the kernel.
    """
    if is_observed():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    return PLAIN.issuperset(map(type, given)) and not is_special(given)


def apply_plain(function: type[torch.autograd.Function]) -> Callable[..., object]:
    """``function.apply`` for calls that are plain, without its preparations for transforms."""
    return super(torch.autograd.Function, function).apply
