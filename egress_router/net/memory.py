"""Memory of this process. See malloc_trim(3), mallopt(3)."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 256 * 1024


def give_back_memory() -> None:
    """Give free memory back to the kernel, which the C library keeps otherwise; nothing on others than glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_large_blocks() -> None:
    """Have large blocks given back to the kernel as soon as they are free, also after the first one; as above."""
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
