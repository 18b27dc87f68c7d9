"""Let the C library keep the memory it has: page faults cost a training step on the CPU about a tenth of its time."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> None:
    """Tell glibc to serve large tensors from memory it already holds, instead of mapping and unmapping each one.

    Every step frees and asks for the same activations. Does nothing where the C library is another.
    """
    set_thresholds(1 << 30, (1 << 31) - 1)


def set_thresholds(mmap: int, trim: int) -> None:
    """Bytes from which an allocation is mapped on its own, and of free memory that is given back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, mmap)
        mallopt(M_TRIM_THRESHOLD, trim)
