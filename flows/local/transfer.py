"""The Transfer action on this machine: a verified copy between two collections, which are folders here.

Which files a run needs is the flow's; who may read them is the file system's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import psutil

from .actions import ActionContext, ActionResult, ActionUnableToRun, JsonObject, Progress, utc_now

_BLOCK_BYTES = 8 * 1024 * 1024
_FICLONE = 0x40049409
"""Linux ioctl: make a file share the blocks of another one until either is written (Btrfs, XFS, bcachefs)."""


class LocalTransfer:
    """Provider of the Transfer action.

    Every file is written aside, flushed, compared with its source by SHA-256, and renamed: a target is whole or absent.
    A target that already has the source's size and digest is left alone. Blocks are shared (reflink) where the file
    system can.

    Parameters
    ----------
    collections : mapping of str to Path
        Folder of each collection id. No path leads out of its collection: neither ``..`` nor a symbolic link.
    allow_hard_links : bool
        Whether a single file (never one of a folder's) may be linked instead of copied, where source and target are on
        one file system. It takes no time and no space, but there is then one file with two names: who writes into the
        raw file later changes the input of the run as well. Raw data that nobody rewrites is what it is for.
    """

    def __init__(self, collections: Mapping[str, Path], *, allow_hard_links: bool = True) -> None:
        self._roots = {name: Path(root).resolve() for name, root in collections.items()}
        self._allow_hard_links = allow_hard_links

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        """Copy what ``DATA`` lists; FAILED with ``fatal_error`` where a file cannot be copied whole."""
        source_root, target_root = self._root(body, "source_endpoint"), self._root(body, "destination_endpoint")
        items = _items(body)
        task = _Task(context, self._allow_hard_links)
        started = utc_now()
        fatal: JsonObject | None = None
        try:
            task.copy_all([job for item in items for job in _jobs(item, source_root, target_root)])
        except _TransferFault as fault:
            fatal = {"code": fault.code, "description": str(fault)}
        except OSError as error:
            place = error.filename or task.current or "the source"
            code = errno.errorcode.get(error.errno or 0, "OS_ERROR")
            fatal = {"code": code, "description": f"{place}: {error.strerror}"}
        status = "FAILED" if fatal else "SUCCEEDED"
        details = {
            "task_id": str(uuid.uuid4()),
            "type": "TRANSFER",
            "status": status,
            "nice_status": fatal["code"] if fatal else "OK",
            "source_endpoint_id": body["source_endpoint"],
            "destination_endpoint_id": body["destination_endpoint"],
            "label": body.get("label"),
            "files": task.files,
            "files_transferred": task.files - task.files_skipped,
            "files_skipped": task.files_skipped,
            "bytes_transferred": task.bytes_transferred,
            "request_time": started,
            "completion_time": utc_now(),
            "fatal_error": fatal,
        }
        return ActionResult("FAILED" if fatal else "SUCCEEDED", details)

    def _root(self, body: JsonObject, field: str) -> Path:
        name = body.get(field)
        if name not in self._roots:
            raise ActionUnableToRun(
                f"{field}: {name!r} is not a collection of this machine; known: {', '.join(sorted(self._roots))}"
            )
        return self._roots[name]


class _TransferFault(Exception):
    """A file cannot be transferred; ends the task as FAILED."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code


@dataclass(frozen=True)
class _Item:
    source: str
    target: str
    recursive: bool


@dataclass(frozen=True)
class _Job:
    """One file to copy, or (`source` is ``None``) one folder to make."""

    source: Path | None
    target: Path
    size: int
    may_link: bool


def _items(body: JsonObject) -> list[_Item]:
    data = body.get("DATA")
    if not isinstance(data, list) or not data:
        raise ActionUnableToRun("DATA: a list of at least one transfer item is needed")
    return [_item(item, f"DATA[{number}]") for number, item in enumerate(data)]


def _item(item: Any, place: str) -> _Item:
    if not isinstance(item, dict):
        raise ActionUnableToRun(f"{place}: an object is needed, found {type(item).__name__}")
    for field in ("source_path", "destination_path"):
        if not isinstance(item.get(field), str) or not item[field]:
            raise ActionUnableToRun(f"{place}.{field}: a path in the collection is needed, found {item.get(field)!r}")
    recursive = item.get("recursive", False)
    if not isinstance(recursive, bool):
        raise ActionUnableToRun(f"{place}.recursive: true or false is needed, found {recursive!r}")
    return _Item(item["source_path"], item["destination_path"], recursive)


def _jobs(item: _Item, source_root: Path, target_root: Path) -> Iterator[_Job]:
    source = _inside(source_root, item.source)
    target = _inside(target_root, item.target)
    if not source.exists():
        raise _TransferFault("NOT_FOUND", f"{source} does not exist; is the scan finished, and the path right?")
    if source.is_dir() != item.recursive:
        wanted = "a folder: ask for it with recursive" if source.is_dir() else "a file: recursive is for folders"
        raise _TransferFault("BAD_TYPE", f"{source} is {wanted}")
    if not item.recursive:
        if item.target.endswith("/") or target.is_dir():
            raise _TransferFault("BAD_TYPE", f"{target} is a folder; name the file that {source.name} shall become")
        yield _file_job(source, target, may_link=True)
        return
    if target == source or source in target.parents:
        raise _TransferFault("BAD_TYPE", f"{source} cannot be copied into itself ({target})")
    for folder, subfolders, names in os.walk(source, onerror=_raise):
        here = Path(folder)
        yield _Job(None, target / here.relative_to(source), 0, may_link=False)
        subfolders[:] = sorted(name for name in subfolders if not (here / name).is_symlink())
        for name in sorted(names):
            if not (here / name).is_symlink():
                yield _file_job(here / name, target / (here / name).relative_to(source), may_link=False)


def _file_job(source: Path, target: Path, *, may_link: bool) -> _Job:
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _TransferFault("BAD_TYPE", f"{source} is neither a file nor a folder")
    return _Job(source, target, status.st_size, may_link)


def _inside(root: Path, path: str) -> Path:
    """Real path of a collection's path; refuses one that leaves the collection."""
    parts = PurePosixPath(path).parts
    parts = parts[1:] if parts[:1] in (("/",), ("//",)) else parts
    parts = parts[1:] if parts[:1] == ("~",) else parts
    if ".." in parts or "\0" in path:
        raise _TransferFault("PERMISSION_DENIED", f"{path}: a path in a collection has no '..'")
    real = root.joinpath(*parts).resolve()
    if not real.is_relative_to(root):
        raise _TransferFault("PERMISSION_DENIED", f"{path} leads out of the collection {root} (to {real})")
    return real


class _Task:
    """One transfer under way: counts, cancels, copies."""

    def __init__(self, context: ActionContext, allow_hard_links: bool) -> None:
        self.context = context
        self.allow_hard_links = allow_hard_links
        self.files = 0
        self.files_skipped = 0
        self.bytes_done = 0
        self.bytes_total = 0
        self.bytes_transferred = 0
        self.current: Path | None = None

    def copy_all(self, jobs: list[_Job]) -> None:
        self.bytes_total = sum(job.size for job in jobs)
        self._report(0)
        for folder in {job.target.parent for job in jobs}:
            _remove_abandoned(folder)
        for job in jobs:
            self.context.check()
            self.current = job.target
            if job.source is None:
                job.target.mkdir(parents=True, exist_ok=True)
                continue
            self.files += 1
            done = self.bytes_done
            if self._same(job.source, job.target):
                self.files_skipped += 1
            else:
                self._copy(job, job.source)
                self.bytes_transferred += job.size
            self.bytes_done = done
            self._report(job.size)

    def _report(self, count: int) -> None:
        self.bytes_done += count
        self.context.report(Progress(self.bytes_done, self.bytes_total, "byte"))

    def _same(self, source: Path, target: Path) -> bool:
        if not target.exists():
            return False
        if target.is_dir():
            raise _TransferFault("BAD_TYPE", f"{target} is a folder; {source.name} is a file")
        return target.samefile(source) or (
            target.stat().st_size == source.stat().st_size and self._digest(target) == self._digest(source)
        )

    def _copy(self, job: _Job, source: Path) -> None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with _aside(job.target) as aside:
            if job.may_link and self.allow_hard_links and _hard_link(source, aside):
                return
            before = source.stat()
            digest = self._write(source, aside)
            after = source.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise _TransferFault(
                    "FILE_CHANGED", f"{source} changed while it was copied; is it still being written?"
                )
            if self._digest(aside) != digest:
                raise _TransferFault(
                    "VERIFY_CHECKSUM", f"the copy of {source} has another checksum and was discarded; check the disk"
                )

    def _write(self, source: Path, aside: Path) -> str:
        """Write the copy, flushed to the disk; the SHA-256 of what was read."""
        with source.open("rb") as reader, aside.open("xb") as writer:
            shared = _reflink(reader, writer)
            digest = self._read(reader, None if shared else writer.write)
            writer.flush()
            os.fsync(writer.fileno())
        return digest

    def _digest(self, path: Path) -> str:
        with path.open("rb") as reader:
            return self._read(reader, None)

    def _read(self, reader: IO[bytes], write: Callable[[bytes], object] | None) -> str:
        digest = hashlib.sha256()
        while block := reader.read(_BLOCK_BYTES):
            self.context.check()
            digest.update(block)
            if write is not None:
                write(block)
                self._report(len(block))
        return digest.hexdigest()


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Name beside the target to write to; renamed to the target at the end, removed after an error."""
    aside = target.parent / f".transfer-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.part"
    try:
        yield aside
        aside.replace(target)
        _flush_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what transfers of killed processes of this machine left aside."""
    prefix = f".transfer-{socket.gethostname()}-"
    for path in folder.glob(".transfer-*.part"):
        process = path.name.removeprefix(prefix).partition("-")[0]
        if path.name.startswith(prefix) and process.isdecimal() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)


def _raise(error: OSError) -> None:
    raise error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hard_link(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def _reflink(source: IO[bytes], target: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True
