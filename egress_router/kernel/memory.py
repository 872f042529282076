"""Memory of this process. See malloc_trim(3)."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Give free memory back to the kernel, which the C library keeps otherwise; nothing on others than glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
