"""Where the machine code of the GPU backends runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ptx.triton_device import compiling_process


@pytest.fixture(scope="session")
def compiled() -> Iterator[Callable[..., Any]]:
    """Calls ``(function, *arguments)`` where the Triton backend compiles for sm_90 and its PTX is interpreted."""
    pytest.importorskip("triton")
    with compiling_process() as call:
        yield call
