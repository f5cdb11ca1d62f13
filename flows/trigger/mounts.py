"""Which file system a folder is on, and whether the kernel tells of changes that other hosts make there."""

from __future__ import annotations

import os
import re
from pathlib import Path

# inotify sees what this host does; on these file systems other hosts write.
_SHARED = {
    *(
        "9p",
        "acfs",
        "afs",
        "auristorfs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
    ),
    *("nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs", "vboxsf", "wekafs"),
}


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Type of the file system that a folder is on (`ext4`, `nfs4`, `fuse.sshfs`); "unknown" where it cannot be told.

    A folder that is missing is on the file system of the nearest folder above it.
    """
    real = os.path.realpath(folder)
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "unknown"
    best, found = "", "unknown"
    for line in lines:
        words = line.split()
        if len(words) < 3:
            continue
        point = _unescaped(words[1])
        inside = point == "/" or real == point or real.startswith(point + "/")
        # the last mount of a place hides those before
        if inside and len(point) >= len(best):
            best, found = point, words[2]
    return found


def needs_polling(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether changes in a folder may be made where inotify does not see them: NFS, GPFS, Lustre, FUSE and the like."""
    kind = file_system_of(folder, mounts)
    return kind in _SHARED or kind == "fuse" or kind.startswith("fuse.") or kind == "unknown"


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)
