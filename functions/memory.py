"""Keeps the process's memory near what its arrays take: blocks that are freed go back to the system."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 16 * 2**20


def return_freed_memory() -> None:
    """Return freed memory to the system, and have freed blocks of 16 MiB and more returned at once from now on.

    To be called before a task works. glibc raises that threshold by itself up to 32 MiB with every large block freed, and
    keeps what lies below: a worker that is well within its budget would grow from slab to slab. With another C library
    nothing is done.
    """
    c = ctypes.CDLL(None)
    if hasattr(c, "mallopt") and hasattr(c, "malloc_trim"):
        c.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        c.malloc_trim(0)
