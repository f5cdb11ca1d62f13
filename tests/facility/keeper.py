"""Runs a command and ends it, with everything that came of it, as soon as the process that asked for it ends.

`Kept` is what callers use; the file itself runs as a small script between the two, and knows nothing of the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05
_STOP_S = 20.0


class Kept:
    """A running command whose descendants, daemons among them, never outlive this process (Linux only).

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environment : mapping of str to str
        The whole environment of the command.
    folder : Path
        Folder in which it runs.
    log : Path
        File that takes its output, appended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).resolve()), str(os.getpid()), *command],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the command or anything that came of it still runs."""
        return self._keeper.poll() is None

    def pids(self) -> list[int]:
        """The command's process first, then all that came of it, parents before children."""
        return _descendants(self._keeper.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the command's own process, if that is still there."""
        for pid in self.pids()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, grace_s: float) -> None:
        """Ask the command to end (SIGTERM), and kill what is left after `grace_s`."""
        self.signal(signal.SIGTERM)
        try:
            self._keeper.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """`kill -9` of everything, now.

        Raises
        ------
        RuntimeError
            If something resists.
        """
        self._keeper.terminate()
        try:
            self._keeper.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            left = self.pids()
            self._keeper.kill()
            self._keeper.wait()
            raise RuntimeError(f"processes {left} do not end") from None


def _descendants(pid: int) -> list[int]:
    """Processes that came of one, breadth first; zombies are none."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            # The name of a process may hold spaces and brackets: what counts stands behind the last one.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for known in found:
        found += children.get(known, [])
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _become_the_command() -> None:
    """In the child, before exec: die with the keeper, should that be killed itself."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _keep(parent: int, command: Sequence[str]) -> None:
    """Run the command; kill its descendants when it or `parent` ends, or when this process is told to."""
    told = False

    def end(number: int, frame: object) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, end)
    # Orphans of the command become children of this process, so that none is out of reach.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    own = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=_become_the_command, start_new_session=True
    ).pid
    while own not in _bury() and not told and os.getppid() == parent:
        time.sleep(_POLL_S)
    while (left := _descendants(os.getpid())) or _has_children():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _bury()
        time.sleep(_POLL_S / 10)


def _bury() -> list[int]:
    """Take note of the children that have ended."""
    ended: list[int] = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.append(pid)
    return ended


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    _keep(int(sys.argv[1]), sys.argv[2:])
