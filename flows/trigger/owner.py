"""Who is submitting a scan, and whether that process is alive: its claim is taken over when it is not, and only then.

A claim by time alone is not safe: a process that slept through its lease would submit a second time.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Owner:
    """A submitter: the machine since its start, the process, and a token of its own.

    Parameters
    ----------
    host : str
    boot : str
        Identity of the machine's last start and of the process-number space: processes of one can be looked up there.
    process : int
    started : float
        Seconds of the epoch.
    token : str
    """

    host: str
    boot: str
    process: int
    started: float
    token: str

    def __str__(self) -> str:
        return f"{self.host} {self.boot} {self.process} {self.started:.2f} {self.token}"


def new_owner() -> Owner:
    """An owner for this process; each call gives another one."""
    return Owner(_host(), _boot(), os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex[:8])


def is_gone(owner: str | None) -> bool | None:
    """Whether the process of an owner has ended; None where that cannot be told from here."""
    if owner is None:
        return True
    host, boot, process, started, _ = owner.split(" ")
    if host != _host():
        return None
    if boot != _boot():
        # The same machine, started anew; or a container beside this one, of which nothing can be said.
        return True if boot.split("/")[0] != _boot().split("/")[0] else None
    try:
        found = psutil.Process(int(process))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(started)) >= 1.0
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return None


def _host() -> str:
    return "".join(socket.gethostname().split()) or "localhost"


@cache
def _boot() -> str:
    """Identity of the machine's start and of the space of process numbers."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        start, space = f"{psutil.boot_time():.0f}", "-"
    return f"{start}/{space}"
