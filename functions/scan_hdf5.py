"""The HDF5 file under a scan: opening it, finding what is in it, and one `ScanError` for whatever HDF5 raises.

What the objects of the file mean is the work of `scan_layouts`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (its import registers the compression filters)
import numpy as np

from .errors import ScanError

UNDERSTOOD_LAYOUTS = (
    "understood are Data Exchange (/exchange/data, data_white, data_dark, theta) and NXtomo (image_key, data, "
    "rotation_angle)"
)
# What h5py raises on damaged files, broken links, missing filters and types that numpy lacks.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
_MAX_WALK_DEPTH = 8
_MAX_WALK_OBJECTS = 20_000


def refusal(path: Path, dataset: str, found: str) -> ScanError:
    """Error that names the file and the dataset, what was found and what is needed."""
    return ScanError(f"{path}: {dataset}: {found}")


@contextmanager
def reading(path: Path, dataset: str) -> Iterator[None]:
    """Turn whatever HDF5 raises while a dataset is read into one `ScanError` that names it."""
    try:
        yield
    except ScanError:
        raise
    except HDF5_ERRORS as error:
        reason = str(error).strip("'\"") or type(error).__name__
        remedy = "copy the file again from its source, and check the files that it links to"
        raise refusal(path, dataset, f"cannot be read ({reason}); {remedy}") from error


def open_file(path: Path, *, lock: bool = True) -> h5py.File:
    """Open an HDF5 file for reading; raises `ScanError` with the remedy where it cannot be."""
    try:
        if path.is_dir():
            raise ScanError(f"{path}: is a directory; name the HDF5 file of one scan")
        if path.exists() and not path.is_file():
            raise ScanError(f"{path}: is not an ordinary file; name the HDF5 file of one scan")
        # "best-effort": file systems without locks (many parallel ones) are no reason to fail
        return h5py.File(path, "r", locking="best-effort" if lock else False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScanError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise ScanError(f"{path}: may not be read by this user; ask its owner for read permission") from error
    except HDF5_ERRORS as error:
        raise ScanError(f"{path}: {_why_not_opened(path, str(error))}") from error


def has_link(file: h5py.File, name: str) -> bool:
    """Whether there is a link of this name, be it broken."""
    return file.get(name, getlink=True) is not None


def find_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Dataset of a name; raises `ScanError` where there is none that can be opened."""
    with reading(path, name):
        found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise refusal(path, name, "is a group; a dataset is needed")
    return found


def resolve(file: h5py.File, name: str) -> Any:
    """Object of a name; None where there is none or its link leads nowhere."""
    try:
        return file[name]
    except HDF5_ERRORS:
        return None


def members(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Members of a group that can be opened: detectors leave links to files that stayed behind."""
    try:
        names = list(group)
    except HDF5_ERRORS:
        return
    for name in names:
        child = resolve(group, name)
        if child is not None:
            yield name, child


def walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Objects of a file, the upper levels first, each group once; bounded, so that an odd file ends too."""
    groups: deque[tuple[str, Any]] = deque([("", file)])
    seen: set[Any] = set()
    count = 0
    while groups:
        prefix, group = groups.popleft()
        for name, child in members(group):
            count += 1
            if count > _MAX_WALK_OBJECTS:
                return
            yield f"{prefix}/{name}", child
            if isinstance(child, h5py.Group) and prefix.count("/") < _MAX_WALK_DEPTH and child not in seen:
                seen.add(child)
                groups.append((f"{prefix}/{name}", child))


def outline(file: h5py.File) -> str:
    """What is in a file, in few words: its images, else the members of its root."""
    images = (f"{name} {o.shape}" for name, o in walk(file) if isinstance(o, h5py.Dataset) and o.ndim in (2, 3))
    found = [image for image, _ in zip(images, range(5), strict=False)]
    return ", ".join(found or [f"/{name}" for name, _ in members(file)][:10]) or "nothing"


def ancestors(name: str) -> Iterator[str]:
    """Groups above a name, the nearest first, the root as an empty name."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def text_of(value: Any) -> str | None:
    """Text of an HDF5 value; None for an empty one."""
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else None
    if value is None or isinstance(value, h5py.Empty):
        return None
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")  # h5py hides bytes that are no UTF-8 that way
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value).partition("\0")[0].strip() or None


def _why_not_opened(path: Path, reason: str) -> str:
    truncated = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", reason)
    if truncated:
        present, expected = truncated.groups()
        return f"truncated HDF5 file: has {present} bytes, should have {expected}; copy it again from its source"
    if "file signature not found" in reason:
        if path.stat().st_size == 0:
            return "is empty (0 bytes); copy it again from its source"
        return f"is not an HDF5 file; {UNDERSTOOD_LAYOUTS}: convert other formats first: tomopipe convert --help"
    if "lock" in reason or "already open" in reason:
        return f"is still open for writing ({reason}); wait until the detector has closed it"
    return f"cannot be opened as HDF5 ({reason}); copy it again from its source"
