"""Makes the C library keep what is freed, so that candidates that take turns all find memory that was touched before.

The first touch of fresh memory costs from a tenth of a second to two seconds a gigabyte, by the machine, and falls on whoever
happens to ask the system: it would decide comparisons of methods that take ten milliseconds a slice.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on memory comes from one heap, of which freed parts are used again; with another C library than glibc nothing
    is done."""
    c = ctypes.CDLL(None)
    if hasattr(c, "mallopt"):
        c.mallopt(_MMAP_MAX, 0)
        c.mallopt(_TRIM_THRESHOLD, _NEVER)
        c.mallopt(_ARENA_MAX, 1)
