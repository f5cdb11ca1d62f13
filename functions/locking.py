"""One worker at a time at one piece of work, whoever started it: a lock that lies beside what it guards.

What is guarded is the caller's; where a file system has no locks there is none, and the caller must bear that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Wait for the lock file `path`, hold it, and remove it at the end.

    The lock goes with the process, however that ends; a file that a killed one has left is taken over. Holds between
    nodes where the file system's locks do (Lustre mounted with `flock`, NFS).

    Parameters
    ----------
    path : Path
        Made, with its folder, where missing.

    Yields
    ------
    bool
        False where the file system has no locks: then nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            # Removed while held: who waits for it finds that its file is no longer there, and makes a new one.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Descriptor of the lock file, locked; None where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS_HERE:
                raise
            path.unlink(missing_ok=True)
            return None
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
