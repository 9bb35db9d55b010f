"""Settings that must stand before torch or triton is imported."""

from __future__ import annotations

import os

# Without a GPU, Triton's kernels run in its interpreter; the variable is read when they are defined.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
