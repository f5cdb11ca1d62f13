"""Which devices this worker may compute on: the GPUs that it was given, else the CPU, and how many threads.

A GPU counts where PyTorch (or CuPy, for TomocuPy) can use it; they are imported only where the machine seems to have one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numba

from .errors import ParameterError

DeviceKind = Literal["cpu", "cuda", "xpu"]

_PINNING = ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_GPU_NODES = ("/dev/nvidiactl", "/dev/dri/renderD*", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True)
class Device:
    """Where a task computes.

    Attributes
    ----------
    kind : {"cpu", "cuda", "xpu"}
    index : int
        Number of the GPU among those that this process sees; 0 for the CPU.
    threads : int
        Threads that the task may use.
    name : str
        What the maker calls it; empty for the CPU.
    """

    kind: DeviceKind
    index: int = 0
    threads: int = 1
    name: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether PyTorch computes on it."""
        return self.kind != "cpu"

    @property
    def torch_name(self) -> str:
        """What PyTorch calls it: "cpu", "cuda:0", ..."""
        return f"{self.kind}:{self.index}" if self.is_gpu else "cpu"


CPU = Device("cpu")
"""The CPU, whatever its threads: they are set for the process, not by who computes."""


def cpu() -> Device:
    """The CPU, with the threads that this worker's environment (`NUMBA_NUM_THREADS`) or the system grants."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return Device("cpu", threads=max(1, min(granted, numba.get_num_threads())))


def worker_devices(requested: Sequence[int] | None = None) -> list[Device]:
    """Devices that this worker computes on, at least one.

    Where an endpoint pins accelerators (`CUDA_VISIBLE_DEVICES`, `ZE_AFFINITY_MASK`) a process sees only its own, and takes
    them, whatever numbers they have on the node. Where several workers see all GPUs of the node, each takes one:
    `PARSL_WORKER_RANK` modulo their number. A single worker takes all.

    Parameters
    ----------
    requested : sequence of int or None
        GPUs that may be used, by the numbers under which this process sees them; None allows all. They are a wish of the
        request's: on a machine without them the CPU computes (`hidden_gpus` says so), but a number beyond the last GPU of
        one that has some is refused.

    Returns
    -------
    list of Device
        GPUs, or the CPU alone where there are none.

    Raises
    ------
    ParameterError
        A requested GPU that is not there while others are.
    """
    found = list(gpus())
    if requested is not None and found and not any(os.environ.get(name) for name in _PINNING):
        missing = [number for number in requested if number >= len(found)]
        if missing:
            raise ParameterError(
                f"reconstruction.gpu_devices={list(requested)}: this worker sees {len(found)} GPU(s), numbered from 0; "
                f"leave {missing} out"
            )
        found = [found[number] for number in requested]
    if not found:
        return [cpu()]
    workers, rank = os.environ.get("PARSL_WORKER_COUNT"), os.environ.get("PARSL_WORKER_RANK")
    if workers and rank and int(workers) > 1:
        return [found[int(rank) % len(found)]]
    return found


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def worker_device(requested: Sequence[int] | None = None) -> Device:
    """The first of `worker_devices`: what a task that uses one device takes."""
    return worker_devices(requested)[0]


@cache
def gpus() -> tuple[Device, ...]:
    """GPUs that PyTorch, or CuPy where that is missing, can use in this process."""
    if not _may_have_gpu():
        return ()
    threads = cpu().threads
    if not has_torch():
        return _cupy_gpus(threads)
    import torch

    for kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind, None)
        if module is not None and module.is_available():
            count = module.device_count()
            return tuple(Device(kind, index, threads, module.get_device_name(index)) for index in range(count))
    return ()


def _cupy_gpus(threads: int) -> tuple[Device, ...]:
    """GPUs that CuPy sees: an environment for TomocuPy may lack PyTorch."""
    if importlib.util.find_spec("cupy") is None:
        return ()
    runtime = importlib.import_module("cupy").cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError:
        return ()
    names = [runtime.getDeviceProperties(index)["name"].decode() for index in range(count)]
    return tuple(Device("cuda", index, threads, name) for index, name in enumerate(names))


def _may_have_gpu() -> bool:
    """Whether the system shows a GPU at all: importing PyTorch takes seconds, which a machine without one need not wait."""
    return any(any(Path("/").glob(pattern.removeprefix("/"))) for pattern in _GPU_NODES)


def hidden_gpus(requested: Sequence[int] | None) -> str | None:
    """Plain remark where GPUs were named and this machine has none."""
    if not requested or gpus():
        return None
    return f"gpu_devices {list(requested)} were given; no GPU can be used here (PyTorch sees none), so the CPU reconstructed"
