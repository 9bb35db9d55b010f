"""Where the Triton kernels run in tests: in the interpreter, or on a GPU where there is one.

The interpreter is chosen by TRITON_INTERPRET=1, which tests/conftest.py sets where there is no GPU.
"""

from __future__ import annotations

import pytest
import torch

from rcgm_kernels.backends import triton as backend
from tests.support.cases import LossCase
from tests.support.closeness import assert_gradient_close, assert_loss_close
from tests.support.implementations import poisoned_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
runs = pytest.mark.skipif(
    backend.unavailable() is not None or not backend.supports(DEVICE),
    reason=f"triton does not run here: {backend.unavailable() or 'TRITON_INTERPRET=1 was set too late'}",
)
# NumPy, which the interpreter computes with, warns of the infinities that some cases are about.
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def check(case: LossCase) -> None:
    call = case.call()
    expected_loss, expected_gradient = call.upcast().run("reference")
    double = any(tensor.dtype == torch.float64 for tensor in call.states())
    rounding = call.rounding() * (1e-7 if double else 1.0)
    given_call = call if DEVICE.type == "cpu" else call.to(DEVICE)
    with poisoned_memory():
        loss, gradient = given_call.run("triton")
    assert_loss_close(loss.cpu(), expected_loss, rounding)
    assert_gradient_close(gradient.cpu(), expected_gradient, 10 * rounding)
