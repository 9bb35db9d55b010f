"""Target forwards as CUDA graphs: the host launches once instead of hundreds of times."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rcgm.engine.conditions import Condition
from rcgm.engine.draws import Draws
from rcgm.engine.networks import module_of
from rcgm_kernels.library import is_plain

WARMUPS = 3
"""Forwards before recording: what libraries set up or tune in their first calls cannot be part of a graph."""

Forward = Callable[[], Tensor]


class Recorder(Protocol):
    """Turns a forward on fixed tensors into one that is replayed."""

    def supports(self, device: torch.device) -> bool:
        """True if it can record on ``device``."""

    def record(self, forward: Forward, device: torch.device) -> Forward:
        """A function that repeats ``forward`` and returns the tensor it writes, the same one every time."""


class CudaGraphs:
    """Records CUDA graphs. They share a memory pool: they run one after the other, and their outputs are copied."""

    def __init__(self) -> None:
        self._pool: Any = None

    def supports(self, device: torch.device) -> bool:
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def record(self, forward: Forward, device: torch.device) -> Forward:
        with torch.cuda.device(device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARMUPS):
                    forward()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # thread_local: the threads that load data may go on allocating pinned memory
            capture = torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local")
            with self._undone_if_it_fails(), capture:
                output = forward()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    @contextlib.contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        """After a capture that fails, torch stays on its stream, and its generator draws only in graphs."""
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state, stream = generator.clone_state(), torch.cuda.current_stream()
        try:
            yield
        except BaseException:
            torch.cuda.set_stream(stream)
            generator.graphsafe_set_state(state)
            self._pool = None  # it may hold memory of the capture
            raise


class GraphedNetwork:
    """A network ``(x, t, r, cond)`` whose forwards without gradient are replayed as CUDA graphs.

    One graph is recorded for each form of the arguments: shapes and dtypes of all tensors, structure of the condition,
    autocast, and mode of the network. A replay copies the arguments to where the graph reads them, and returns a copy
    of what it writes. It reads the weights where they were. So an average that is updated in place works. A network
    whose tensors are replaced, or that decides by values on the host, must not be recorded. A network that draws random
    numbers in its forward is refused: it would have to draw what the student draws, and a graph draws its own.

    What cannot be replayed runs without a graph: forwards with gradient, under ``torch.func``, ``torch.compile`` or a
    dispatch mode, on devices without graphs, and forms beyond the first ``most``. Where this costs speed there is one
    warning of each kind. If recording fails, a warning says why, and that form runs without a graph from then on.

    Args:
        network: the network. Its tensors must stay where they are, and be updated in place.
        most: largest number of forms that are recorded.
        recorder: what records; None for CUDA graphs.

    Raises:
        ValueError: if ``most`` is below 1; and when it is called, for a network that draws random numbers.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor, Condition], Tensor],
        *,
        most: int = 8,
        recorder: Recorder | None = None,
    ) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most!r}")
        self.network = network
        self.most = most
        self._recorder = CudaGraphs() if recorder is None else recorder
        self._recorded: dict[Any, _Recording | None] = {}
        self._warned: set[str] = set()

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, cond: Condition = None) -> Tensor:
        if torch.is_grad_enabled():
            return self.network(x, t, r, cond)
        # to torch None is a leaf, and to a condition it is none
        leaves, structure = pytree.tree_flatten(() if cond is None else cond)
        arguments = [x, t, r, *leaves]
        if not is_plain(*arguments):
            return self.network(x, t, r, cond)
        if not self._recorder.supports(x.device):
            self._warn_once(f"forwards on {x.device.type} are not captured: there are no graphs to capture them in")
            return self.network(x, t, r, cond)
        form = self._form(arguments, structure)
        if form not in self._recorded:
            if len(self._recorded) == self.most:
                self._warn_once(f"more than {self.most} forms of target forwards: those beyond run without a graph")
                return self.network(x, t, r, cond)
            self._recorded[form] = self._record(arguments, structure)
        recording = self._recorded[form]
        return self.network(x, t, r, cond) if recording is None else recording(arguments)

    def forget(self) -> None:
        """Drop all recordings. Call it after the tensors of the network were replaced."""
        self._recorded.clear()

    def _form(self, arguments: list[Tensor], structure: pytree.TreeSpec) -> tuple[Any, ...]:
        device = arguments[0].device
        formats = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in arguments)
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        module = module_of(self.network)
        return formats, str(structure), autocast, module is not None and module.training

    def _record(self, arguments: list[Tensor], structure: pytree.TreeSpec) -> _Recording | None:
        device = arguments[0].device
        with torch.inference_mode(False), torch.no_grad():  # so that they can be written in either mode later
            fixed = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in arguments]
            for to, tensor in zip(fixed, arguments, strict=True):
                to.copy_(tensor)
        x, t, r = fixed[:3]
        condition = pytree.tree_unflatten(fixed[3:], structure) if len(fixed) > 3 else None

        def forward() -> Tensor:
            with _without_weight_cache(device):
                return self.network(x, t, r, condition)

        with Draws().repeated(device) as made:
            forward()
        if made.any:
            raise ValueError(
                "a network that draws random numbers in its forward (dropout or the like) cannot be captured in a "
                "CUDA graph: set cuda_graphs to false, put the network in evaluation mode, or let it draw nothing"
            )

        try:
            return _Recording(fixed, self._recorder.record(forward, device))
        except RuntimeError as error:
            self._warn_once(f"a target forward could not be captured and runs without a graph: {error}")
            return None

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)


class _Recording:
    def __init__(self, fixed: list[Tensor], replay: Forward) -> None:
        self._fixed = fixed
        self._replay = replay

    def __call__(self, arguments: list[Tensor]) -> Tensor:
        for to, tensor in zip(self._fixed, arguments, strict=True):
            to.copy_(tensor)
        return self._replay().clone()  # the next replay writes where this one did


def _without_weight_cache(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The autocast in force without its cache of weights: a graph has to cast them again, since they change."""
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False)
