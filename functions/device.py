"""Which device this worker has, and how many threads.

A table of devices and launchers comes with the GPU engines; today every engine computes on the CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numba


@dataclass(frozen=True)
class Device:
    """Where a task computes.

    Parameters
    ----------
    kind : str
        "cpu".
    threads : int
        Threads that the task may use.
    """

    kind: str
    threads: int


def worker_device() -> Device:
    """Device of this worker: the CPU, with the threads that its environment (`NUMBA_NUM_THREADS`) or the system grants."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return Device("cpu", max(1, min(granted, numba.get_num_threads())))


def hidden_gpus(requested: list[int] | None) -> str | None:
    """Plain remark where GPUs were named that no engine of this worker can use."""
    if not requested:
        return None
    return f"gpu_devices {requested} were given; no installed engine uses a GPU here, so the CPU reconstructed"
