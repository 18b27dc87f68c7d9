"""Memory of this process: make glibc keep freed memory, since page faults take about 10 % of a training step on the CPU; measure
the peak."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> None:
    """Make glibc serve large tensors from memory it already has, instead of mapping and unmapping each one.

    Every step allocates and frees the same activations. Does nothing with other C libraries.
    """
    set_thresholds(1 << 30, (1 << 31) - 1)


def set_thresholds(mmap: int, trim: int) -> None:
    """`mmap`: allocations from this size in bytes get their own mapping. `trim`: free memory above this size is returned."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, mmap)
        mallopt(M_TRIM_THRESHOLD, trim)


def peak_memory() -> int | None:
    """Returns the peak of this process's main memory in bytes; None on Windows."""
    status = Path("/proc/self/status")  # getrusage would include the parent's memory at the start of this process
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory() -> int | None:
    """Returns the available main memory in bytes; None if the system does not tell."""
    file = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text()) if file.is_file() else None
    return 1024 * int(found[1]) if found else None
