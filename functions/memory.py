"""Keeps the process's memory near what its arrays take: large blocks that are freed go back to the system."""

from __future__ import annotations

import ctypes
import ctypes.util

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 16 * 2**20


def return_large_blocks() -> None:
    """Have the allocator return freed blocks of 16 MiB and more to the system at once; to be called before a task works.

    glibc raises its threshold by itself up to 32 MiB with every large block freed, and then keeps what lies below: a worker
    that is well within its budget grows from slab to slab. With another C library nothing is done.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
