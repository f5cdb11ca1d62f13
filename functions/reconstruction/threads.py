"""Spreads independent pieces of work over this process's threads, for kernels that release the GIL.

How many threads there are is numba's setting (`numba.set_num_threads`, NUMBA_NUM_THREADS).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba


def run_in_threads(task: Callable[[int], None], count: int) -> None:
    """Call ``task(0)`` to ``task(count - 1)``, each once, in no particular order; the first exception is raised.

    Threads that take the next piece when they are free balance uneven pieces, and unlike numba's parallel loops they
    may be used from several threads of the caller at once. Numbers cannot depend on the number of threads as long as
    the pieces do not.
    """
    workers = min(thread_count(), count)
    if workers <= 1:
        for index in range(count):
            task(index)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(task, range(count)):
            pass


def thread_count() -> int:
    """How many threads `run_in_threads` uses at most."""
    return int(numba.get_num_threads())
