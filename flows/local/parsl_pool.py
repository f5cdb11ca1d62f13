"""Workers of this machine, through Parsl: one thread, or processes. Both can be stopped at any moment.

What runs on them is the caller's: packed tasks in, packed results out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import psutil

from .packed_task import run_packed, run_packed_in_worker

_GUARD = "tomopipe.flows.local.guard"
_PACKAGE = "parsl.executors.high_throughput"
_HEARTBEAT_PERIOD_S = 1
_HEARTBEAT_THRESHOLD_S = 60
_STOP_TIMEOUT_S = 5.0
_LOSS_REPORT_TIMEOUT_S = 5.0
_THREAD_COUNTS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SAFE_PATH = re.compile(r"[\w./+-]+", re.ASCII)


class Pool(Protocol):
    """Workers that are running."""

    def submit(self, payload: str) -> Future[str]:
        """Start a packed task, or queue it."""
        ...

    def alive(self) -> bool:
        """False where the workers are gone and will not come back."""
        ...

    def stop(self) -> None:
        """Stop all tasks and workers, at once."""
        ...


class ThreadPool:
    """One worker: a thread of this process, fed by a Parsl thread.

    The worker's own thread is a daemon, so that a task deep in native code does not hold up the end of Python.
    """

    def __init__(self, log_directory: Path) -> None:
        from parsl.executors import ThreadPoolExecutor

        self._stopped = False
        self._current: Future[str] = Future()
        self._tasks: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tomopipe-worker", daemon=True)
        self._thread.start()
        self._kernel = _kernel(log_directory, ThreadPoolExecutor(label="thread", max_threads=1))

    def submit(self, payload: str) -> Future[str]:
        return _submit(self._kernel, self._hand_over, payload)

    def alive(self) -> bool:
        return True

    def stop(self) -> None:
        """Raise an error inside the task at its next step of Python, drop the queued ones, and end the thread.

        Native code cannot be interrupted: a task that does not come back from it within seconds is left to itself.
        """
        self._stopped = True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_TaskStopped)
        )
        self._tasks.put(None)
        self._thread.join(_STOP_TIMEOUT_S)
        with contextlib.suppress(InvalidStateError):
            self._current.set_result("")
        self._kernel.cleanup()

    def _hand_over(self, payload: str) -> str:
        """In Parsl's thread: have the worker run the task, and wait for its result."""
        self._current = Future()
        if self._stopped:
            return ""
        self._tasks.put(payload)
        return self._current.result()

    def _work(self) -> None:
        with contextlib.suppress(_TaskStopped, InvalidStateError):
            while (payload := self._tasks.get()) is not None:
                self._current.set_result(run_packed(payload))


class ProcessPool:
    """Worker processes: a Parsl HighThroughputExecutor with one block on this machine."""

    def __init__(self, log_directory: Path, workers: int, threads_per_worker: int) -> None:
        from parsl.executors import HighThroughputExecutor
        from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
        from parsl.launchers import SimpleLauncher
        from parsl.providers import LocalProvider

        # -P: what lies in the user's folder must not shadow a module of ours or of Python's.
        guarded = [sys.executable, "-P", "-m", _GUARD, str(os.getpid())]
        manager = shlex.join([*guarded, f"{_PACKAGE}.process_worker_pool"])
        provider: Any = LocalProvider(  # type: ignore[no-untyped-call]
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
            launcher=SimpleLauncher(),
            worker_init="\n".join(f"export {name}={threads_per_worker}" for name in _THREAD_COUNTS),
        )
        self._executor: Any = HighThroughputExecutor(
            label="processes",
            address="127.0.0.1",
            max_workers_per_node=workers,
            cores_per_worker=1e-3,  # the number of workers alone decides
            heartbeat_period=_HEARTBEAT_PERIOD_S,
            heartbeat_threshold=_HEARTBEAT_THRESHOLD_S,
            launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", manager, 1),
            interchange_launch_cmd=[*guarded, f"{_PACKAGE}.interchange"],
            provider=provider,
        )
        self._provider = provider
        self._workers: set[psutil.Process] = set()
        self._looked_at = self._explained_at = time.monotonic()
        self._losses = 0
        with contextlib.ExitStack() as stack:
            log_path = stack.enter_context(_safe_path(log_directory))
            self._kernel = _kernel(log_path, self._executor, retry_handler=self._note_loss)
            self._link = stack.pop_all()

    def submit(self, payload: str) -> Future[str]:
        return _submit(self._kernel, run_packed_in_worker, payload)

    def alive(self) -> bool:
        """False also where a worker has died that ran no task: it may have held the lock of the task queue.

        Python's queues never get over that, and Parsl does not notice; a worker that dies with a task is replaced.
        """
        if self._executor.interchange_proc.poll() is not None or self._executor.bad_state_is_set:
            return False
        now = time.monotonic()
        if now - self._looked_at >= 1.0:
            self._looked_at = now
            self._workers |= self._manager_children()
        if sum(not _runs(worker) for worker in self._workers) <= self._losses:
            self._explained_at = now
        return now - self._explained_at < _LOSS_REPORT_TIMEOUT_S

    def stop(self) -> None:
        processes = self._processes()
        # Parsl waits for ever for an answer of its interchange where that was killed.
        cleaner = threading.Thread(target=self._kernel.cleanup, name="parsl-cleanup", daemon=True)
        cleaner.start()
        cleaner.join(_STOP_TIMEOUT_S)
        _end([*processes, *self._processes()])
        self._link.close()

    def _note_loss(self, error: Exception, task: Any) -> float:
        """Parsl's question what a failed try costs: one of its retries."""
        self._losses += 1
        return 1.0

    def _processes(self) -> list[psutil.Process]:
        heads = [self._executor.interchange_proc.pid, *(job["remote_pid"] for job in self._provider.resources.values())]
        found: list[psutil.Process] = []
        for pid in heads:
            with contextlib.suppress(psutil.NoSuchProcess):
                head = psutil.Process(pid)
                found += [*head.children(recursive=True), head]
        return found

    def _manager_children(self) -> set[psutil.Process]:
        """The workers, and two more processes of Python's that are as vital."""
        processes = self._processes()
        children: set[psutil.Process] = set()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if _GUARD in process.cmdline():
                    children.update(child for child in processes if child.ppid() == process.pid)
        return children


class _TaskStopped(BaseException):
    """Raised inside a task of the worker thread to end it; no ``except Exception`` of the task's holds it up."""


def _kernel(log_directory: Path, executor: Any, retry_handler: Callable[..., float] | None = None) -> Any:
    from parsl.config import Config
    from parsl.dataflow.dflow import DataFlowKernel

    return DataFlowKernel(
        Config(
            executors=[executor],
            run_dir=str(log_directory),
            retries=1,  # tasks report their own errors as results: what Parsl sees is a lost worker
            retry_handler=retry_handler,
            strategy="none",
            strategy_period=0.2,
            internal_tasks_max_threads=1,
            usage_tracking=0,
            initialize_logging=False,
        )
    )


def _submit(kernel: Any, function: Callable[[str], str], payload: str) -> Future[str]:
    future: Future[str] = kernel.submit(
        function, app_args=[payload], executors="all", cache=False, ignore_for_cache=None, app_kwargs={}
    )
    return future


@contextlib.contextmanager
def _safe_path(folder: Path) -> Iterator[Path]:
    """The folder by a name that survives Parsl's unquoted shell commands: its own, or a link's."""
    folder = folder.absolute()
    if _SAFE_PATH.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tomopipe-") as temporary:
        link = Path(temporary) / "parsl"
        link.symlink_to(folder)
        yield link


def _end(processes: list[psutil.Process]) -> None:
    """Give processes that were told to end a moment, then kill them."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
