"""Runs a module as ``python -m module`` would, for as long as another process lives: nothing outlives a killed run.

Started with ``python -m tomopipe.flows.local.guard PID MODULE [ARGUMENT ...]``; what it does is not of concern here.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import select
import signal
import sys
import threading
import time

import psutil

_POLL_INTERVAL_S = 0.5


def die_with(pid: int) -> None:
    """From now on, when process `pid` ends, kill this process and its descendants, whatever they are doing."""
    threading.Thread(target=_watch, args=(pid,), name=f"guard-of-{pid}", daemon=True).start()


def main() -> None:
    """Watch the process named first, ignore Ctrl-C (the run itself ends its workers), and become the module."""
    pid, module, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(int(pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(pid: int) -> None:
    _wait_for_end(pid)
    this = psutil.Process()
    for process in [*this.children(recursive=True), this]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _wait_for_end(pid: int) -> None:
    """Return when the process has ended: at once where the kernel tells, else within half a second."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # no Linux, an old kernel, or a sandbox that forbids it
        while psutil.pid_exists(pid):
            time.sleep(_POLL_INTERVAL_S)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
