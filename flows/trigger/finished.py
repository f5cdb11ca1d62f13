"""Whether a scan's file is finished: it rests, nobody writes it, it opens, and it holds what a scan must hold.

Looks only: it locks nothing, so that the detector's software is never in its way. When to look again is up to the caller.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tomopipe.functions.errors import ScanError
from tomopipe.functions.scan import Scan, open_scan, validate
from tomopipe.functions.scan_hdf5 import open_file
from tomopipe.functions.scan_metadata import NO_UNIT, FileMetadata

State = Literal["finished", "not yet", "bad"]

_TEMPORARY_SUFFIXES = ("~", ".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".swp", ".lock")
_SNAPSHOT_AGE_S = 0.5
_MAX_REMEMBERED = 100_000
_PLANNED_ANGLES = "/process/acquisition/rotation/num_angles"


@dataclass(frozen=True)
class FinishedPolicy:
    """What counts as finished.

    Attributes
    ----------
    stable_s : float
        How long size and modification time must have stayed the same, seconds.
    patience_s : float
        A file that has rested so long and still is no complete scan is bad, seconds.
    sentinel : str or None
        Suffix of the file that the beamline writes beside a finished scan (`.done`: `scan.h5.done` or `scan.done`).
    check_writers : bool
        Whether to look for processes of this host that have the file open for writing.
    min_angles_fraction : float
        Least share of the planned projections, where the file says how many were planned; the rest counts as lost
        frames, less as a scan that was broken off.
    """

    stable_s: float = 10.0
    patience_s: float = 300.0
    sentinel: str | None = None
    check_writers: bool = True
    min_angles_fraction: float = 0.99


@dataclass(frozen=True)
class Verdict:
    """What was found out about a file.

    Attributes
    ----------
    state : {"finished", "not yet", "bad"}
        `bad` holds for this size and modification time only: a file that changes later is to be looked at anew.
    reason : str
        Why, for a person.
    size, mtime_ns : int
        Of the file as it was looked at, before and after; 0 where there is none.
    metadata : mapping
        What the file says about the measurement, where it is finished: for rules.
    """

    state: State
    reason: str
    size: int = 0
    mtime_ns: int = 0
    metadata: Mapping[str, str | float] = field(default_factory=dict)


class Watchful:
    """Looks at files again and again, and remembers since when each has stayed the same.

    Parameters
    ----------
    policy : FinishedPolicy
        What counts as finished.
    """

    def __init__(self, policy: FinishedPolicy) -> None:
        self._policy = policy
        self._since: OrderedDict[Path, tuple[tuple[int, int, int, int], float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, path: Path, now: float) -> Verdict:
        """Look at a file.

        Parameters
        ----------
        path : Path
            The file.
        now : float
            Seconds of a clock that never goes back (`time.monotonic`); the same clock at every look.

        Returns
        -------
        Verdict
            `not yet` at the first look, unless `stable_s` is 0.
        """
        try:
            found = path.stat()
        except OSError:
            self.forget(path)
            return check_finished(path, self._policy, 0.0)
        look = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
        with self._lock:
            known = self._since.get(path)
            if known is None or known[0] != look:
                known = (look, now)
                self._since[path] = known
            self._since.move_to_end(path)
            while len(self._since) > _MAX_REMEMBERED:
                self._since.popitem(last=False)
        return check_finished(path, self._policy, now - known[1])

    def forget(self, path: Path) -> None:
        """Forget the earlier looks at a file: its verdict is known, or it is gone."""
        with self._lock:
            self._since.pop(path, None)

    def __len__(self) -> int:
        return len(self._since)


def check_finished(path: Path, policy: FinishedPolicy, unchanged_s: float) -> Verdict:
    """Whether a file is a finished scan. Frames are not read: the check takes milliseconds whatever the size.

    Parameters
    ----------
    path : Path
        The file.
    policy : FinishedPolicy
        What counts as finished.
    unchanged_s : float
        How long size and modification time are known to have stayed the same, seconds; `Watchful` keeps account of it.

    Returns
    -------
    Verdict
        Never raises for a file's sake: what is wrong with it is the reason.
    """
    if is_temporary_name(path.name):
        return Verdict("bad", f"{path}: a temporary name; the finished file will have another")
    try:
        found = path.stat()
    except FileNotFoundError:
        return Verdict("not yet", f"{path}: no such file")
    except OSError as error:
        return Verdict("not yet", f"{path}: cannot be looked at ({error})")

    def verdict(state: State, reason: str, metadata: Mapping[str, str | float] | None = None) -> Verdict:
        return Verdict(state, reason, found.st_size, found.st_mtime_ns, metadata or {})

    if not stat.S_ISREG(found.st_mode):
        return verdict("bad", f"{path}: is not an ordinary file")
    if unchanged_s < policy.stable_s:
        return verdict("not yet", f"unchanged for {unchanged_s:.1f} s, {policy.stable_s:g} s are asked for")
    if policy.sentinel is not None and not has_sentinel(path, policy.sentinel):
        return verdict("not yet", f"no {policy.sentinel} file beside it")
    if policy.check_writers:
        writers = writers_of(path)
        if writers:
            return verdict("not yet", f"open for writing in process {', '.join(map(str, sorted(writers)))}")
    try:
        metadata = _look_inside(path, policy)
    except ScanError as error:
        return verdict("bad" if unchanged_s >= max(policy.patience_s, policy.stable_s) else "not yet", str(error))
    try:
        after = path.stat()
    except OSError as error:
        return verdict("not yet", f"{path}: went away while it was looked at ({error})")
    if (after.st_size, after.st_mtime_ns, after.st_ino) != (found.st_size, found.st_mtime_ns, found.st_ino):
        return verdict("not yet", f"{path}: changed while it was looked at")
    return verdict("finished", "complete", metadata)


def is_temporary_name(name: str) -> bool:
    """Whether a file's name says that it is being written: hidden (rsync's `.scan.h5.a8Kd2f`), `.part`, `.tmp`, `name~`."""
    return name.startswith((".", "~", "#")) or name.lower().endswith(_TEMPORARY_SUFFIXES)


def has_sentinel(path: Path, suffix: str) -> bool:
    """Whether the file that says that a scan is finished stands beside it."""
    return path.with_name(path.name + suffix).exists() or path.with_name(path.stem + suffix).exists()


def writers_of(path: Path) -> set[int]:
    """Processes of this host that have a file open for writing, or a write lock on it.

    Seen are the processes of this user, and all of them where this process runs as root. Writers of other hosts are not
    seen: for them there is `stable_s`.
    """
    return _writers.of(path)


class _Writers:
    """Files that are open on this host, as of half a second ago at most: a thousand checks cost one look at `/proc`."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._lock = threading.Lock()
        self._taken_at = float("-inf")
        self._open: dict[str, list[tuple[int, str]]] = {}
        self._locked: dict[tuple[int, int, int], set[int]] = {}

    def of(self, path: Path) -> set[int]:
        """Processes that write a file."""
        try:
            real = os.path.realpath(path)
            found = os.stat(real)  # noqa: PTH116 - beside realpath
        except OSError:
            return set()
        with self._lock:
            if self._clock() - self._taken_at > _SNAPSHOT_AGE_S:
                self._open, self._locked = self._open_files(), self._write_locks()
                self._taken_at = self._clock()
            held = self._open.get(real, [])
            locked = self._locked.get((os.major(found.st_dev), os.minor(found.st_dev), found.st_ino), set())
        return {pid for pid, descriptor in held if self._is_writable(pid, descriptor)} | locked

    def _open_files(self) -> dict[str, list[tuple[int, str]]]:
        files: dict[str, list[tuple[int, str]]] = {}
        for process in _entries(self._proc):
            if not process.isdigit():
                continue
            for descriptor in _entries(self._proc / process / "fd"):
                try:
                    target = os.readlink(f"{self._proc}/{process}/fd/{descriptor}")  # noqa: PTH115 - many of them
                except OSError:
                    continue
                if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
                    files.setdefault(target, []).append((int(process), descriptor))
        return files

    def _is_writable(self, pid: int, descriptor: str) -> bool:
        try:
            text = (self._proc / str(pid) / "fdinfo" / descriptor).read_text(encoding="ascii")
        except OSError:
            return False  # closed in the meantime
        flags = next((line.split()[1] for line in text.splitlines() if line.startswith("flags:")), "0")
        return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY

    def _write_locks(self) -> dict[tuple[int, int, int], set[int]]:
        """Write locks by (major, minor, inode): `1: POSIX ADVISORY WRITE 1234 08:01:5678 0 EOF`."""
        locks: dict[tuple[int, int, int], set[int]] = {}
        try:
            lines = (self._proc / "locks").read_text(encoding="ascii").splitlines()
        except OSError:
            return locks
        for line in lines:
            words = line.split()
            if len(words) < 8 or words[1] == "->" or words[3] != "WRITE":
                continue
            major, minor, inode = words[5].split(":")
            locks.setdefault((int(major, 16), int(minor, 16), int(inode)), set()).add(int(words[4]))
        return locks


_writers = _Writers()


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are needed, many of them
    except OSError:
        return []


def _look_inside(path: Path, policy: FinishedPolicy) -> dict[str, str | float]:
    """Metadata of a complete scan; raises `ScanError` where it is none."""
    with open_scan(path, lock=False) as scan:
        validate(scan, check_values=False)
        planned = _planned_angles(path) if scan.layout == "data-exchange" else None
        if planned is not None and scan.shape[0] < policy.min_angles_fraction * planned:
            raise ScanError(
                f"{path}: holds {scan.shape[0]} of {planned:g} planned projections: the scan was broken off; "
                "start it by hand where that is enough: tomopipe watch add SCAN"
            )
        return _metadata(scan)


def _planned_angles(path: Path) -> float | None:
    with open_file(path, lock=False) as file:
        return FileMetadata(file).quantity((_PLANNED_ANGLES,), NO_UNIT, "")


def _metadata(scan: Scan) -> dict[str, str | float]:
    said = scan.metadata
    known: dict[str, str | float | None] = {
        "sample": said.sample,
        "proposal": said.proposal,
        "experimenter": said.experimenter,
        "beamline": said.beamline,
        "start_time": said.start_time,
        "energy_kev": said.energy_kev,
        "pixel_size_um": said.pixel_size_um,
        "exposure_time_s": said.exposure_time_s,
        "angles": float(scan.shape[0]),
    }
    return {key: value for key, value in known.items() if value is not None}
