"""Notices files in folders: by inotify where it works, by listing where it does not, and by listing after every start.

Whether a file is finished is found out by `finished`; listing itself is the work of `folder_scan`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomopipe.functions.errors import InputError

from .folder_scan import FileFound, FolderScan
from .mounts import needs_polling
from .observation import Observation

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

Report = Callable[[Observation], None]
Method = Literal["auto", "inotify", "polling"]
Known = Callable[[Path, int, int], bool]

_log = logging.getLogger(__name__)
_TICK_S = 0.25
_QUIET_S = 1.0
_MAX_DELAY_S = 10.0
_MAX_PENDING = 10_000
_HEARTBEAT_S = 2.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 10.0


@dataclass(frozen=True)
class FileSettings:
    """Where files are looked for, and how.

    Attributes
    ----------
    folders : sequence of Path
        Absolute paths; a folder may come later.
    patterns, ignore : sequence of str
        Shell patterns of names that are wanted, and of names or paths below a folder that are not.
    recursive : bool
        Whether folders below are watched too.
    method : {"auto", "inotify", "polling"}
        `auto`: by inotify on local disks, by listing on NFS, GPFS, Lustre, FUSE and the like.
    interval_s : float
        Time between two listings where there is no inotify, seconds.
    rescan_s : float
        Time between two listings where there is inotify, for events that it lost, seconds.
    sweep_s : float
        Time between two listings of everything, for old files that were changed in place, seconds.
    not_before_s : float or None
        Files that were last changed before are no scans of this trigger; seconds of the epoch.
    sentinel : str or None
        Suffix of the file that says that a scan is finished.
    """

    folders: Sequence[Path]
    patterns: Sequence[str] = ("*.h5", "*.hdf5", "*.hdf", "*.nxs", "*.nx")
    ignore: Sequence[str] = ()
    recursive: bool = True
    method: Method = "auto"
    interval_s: float = 10.0
    rescan_s: float = 60.0
    sweep_s: float = 3600.0
    not_before_s: float | None = None
    sentinel: str | None = None


class FileSource:
    """Reports files of folders as candidates: every one after a start, then those that are new or changed.

    Parameters
    ----------
    settings : FileSettings
        Where and how to look.
    name : str
        Name in observations and messages.
    known : callable, optional
        Whether a file (path, size, modification time in ns) is dealt with: such files of earlier days are not reported
        again after a start.
    """

    def __init__(self, settings: FileSettings, name: str = "files", known: Known | None = None) -> None:
        for folder in settings.folders:
            if not folder.is_absolute():
                raise InputError(f"{name}: folders: {folder} is not absolute; write the whole path, from /")
        self.name = name
        self._settings = settings
        self._known = known
        self._watches = [_FolderWatch(folder, self) for folder in settings.folders]
        self._report: Report | None = None
        self._last_event: float | None = None

    @property
    def settings(self) -> FileSettings:
        """Where and how it looks."""
        return self._settings

    def start(self, report: Report) -> None:
        """Begin to watch, each folder in a thread of its own: one that hangs (a dead server) does not stop the others.

        Raises
        ------
        InputError
            inotify is wanted and the package for it is not installed.
        """
        self._report = report
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """Stop watching; a folder whose server hangs is left behind after a few seconds."""
        for watch in self._watches:
            watch.ask_to_stop()
        for watch in self._watches:
            watch.join(5.0)

    def health(self) -> dict[str, Any]:
        """Whether every folder is watched, the time of the last event, and what is wrong."""
        problems = [f"{watch.folder}: {watch.problem}" for watch in self._watches if watch.problem]
        return {
            "alive": all(watch.is_alive for watch in self._watches),
            "last_event": self._last_event,
            "problem": "; ".join(problems) or None,
            "folders": {str(watch.folder): watch.how for watch in self._watches},
        }

    def report_file(self, found: FileFound) -> None:
        """Report a file, unless it is of before our time or known."""
        before = self._settings.not_before_s
        if before is not None and found.mtime_ns < before * 1e9:
            return
        if self._known is not None and self._known(found.path, found.size, found.mtime_ns):
            return
        assert self._report is not None
        self._report(Observation(found.path, self.name, "candidate"))
        self._last_event = time.time()


class _FolderWatch:
    """One folder: a thread that lists, takes the events of inotify where there is any, and never ends by an error."""

    def __init__(self, folder: Path, source: FileSource) -> None:
        settings = source.settings
        self.folder = folder
        self.problem: str | None = "not started"
        self.how = "not watched"
        self._source = source
        self._settings = settings
        self._scan = FolderScan(folder, settings.patterns, settings.ignore, recursive=settings.recursive)
        self._pending: dict[Path, tuple[float, float]] = {}  # path -> (first event, last event)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._rescan = threading.Event()
        self._thread: threading.Thread | None = None
        self._observer: Any = None
        self._is_watching = False
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        if self._settings.method == "inotify":
            _observer_class()  # a clear error now, not in a thread
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=f"{self._source.name}:{self.folder}", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        delay = _FIRST_RETRY_S
        while not self._stop.is_set():
            self._is_watching = False
            try:
                self._watch()
            except Exception as error:  # noqa: BLE001 - shown in health(); the watch begins anew
                self.problem = str(error) or type(error).__name__
                if isinstance(error, OSError):
                    _log.warning("%s: %s cannot be watched now: %s", self._source.name, self.folder, error)
                else:
                    _log.exception("%s: %s: the watch failed and begins anew", self._source.name, self.folder)
            finally:
                self._end_events()
            delay = _FIRST_RETRY_S if self._is_watching else min(2 * delay, _LONGEST_RETRY_S)
            self._stop.wait(delay)

    def _watch(self) -> None:
        """Watch until the folder is gone or another one, or it is time to stop."""
        identity = self._identity_now()
        if identity != self._identity:
            self._scan.forget()
        # events first, then the listing: nothing falls between
        by_events = self._begin_events()
        self._identity = identity
        self._list(everything=True)
        self.how, self.problem, self._is_watching = ("inotify" if by_events else "polling"), None, True
        every = self._settings.rescan_s if by_events else self._settings.interval_s
        listed = swept = beat = time.monotonic()
        while not self._stop.wait(_TICK_S if by_events else min(_TICK_S * 4, self._settings.interval_s / 4)):
            now = time.monotonic()
            if now - beat >= _HEARTBEAT_S:
                beat = now
                if self._identity_now() != identity:
                    raise OSError("the folder was replaced by another one")
                # a folder that is made anew may have the number of the old one, but nobody watches it
                if by_events and not all(emitter.is_alive() for emitter in self._observer.emitters):
                    raise OSError("the folder was deleted")
            self._take_events(now)
            if self._rescan.is_set() or now - listed >= every:
                self._rescan.clear()
                everything = now - swept >= self._settings.sweep_s
                listed, swept = now, now if everything else swept
                self._list(everything)
                self.problem = None

    def _identity_now(self) -> tuple[int, int]:
        found = self.folder.stat()
        return found.st_dev, found.st_ino

    def _list(self, everything: bool) -> None:
        for found in self._scan.changes(time.time_ns(), everything=everything):
            self._source.report_file(found)
            if self._stop.is_set():
                return

    def _begin_events(self) -> bool:
        method = self._settings.method
        if method == "polling" or (method == "auto" and needs_polling(self.folder)):
            return False
        try:
            observer = _observer_class()()
        except InputError:
            if method == "inotify":
                raise
            _log.warning("%s: inotify needs tomopipe[trigger]; %s is listed instead", self._source.name, self.folder)
            return False
        handler = _make_handler(self._on_event)
        try:
            observer.schedule(handler, str(self.folder), recursive=self._settings.recursive)
            observer.start()
        except OSError as error:
            if not self.folder.is_dir():
                raise
            # no more watches or instances (fs.inotify.max_user_watches): listing works all the same
            _log.warning(
                "%s: inotify cannot watch %s (%s): it is listed instead", self._source.name, self.folder, error
            )
            return False
        self._observer = observer
        return True

    def _end_events(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(5.0)
        self.how = "not watched"

    def _on_event(self, path: Path, is_directory: bool) -> None:
        """Called in inotify's thread: only takes note."""
        if is_directory:
            # files that came before the new folder was watched made no events
            self._rescan.set()
            return
        scan = self._without_sentinel(path)
        if scan is None:
            return
        now = time.monotonic()
        with self._lock:
            if len(self._pending) >= _MAX_PENDING and scan not in self._pending:
                self._rescan.set()
                return
            self._pending[scan] = (self._pending.get(scan, (now, now))[0], now)

    def _without_sentinel(self, path: Path) -> Path | None:
        """The scan that an event is about: the file itself, or the one that a sentinel stands beside."""
        if self._scan.wants(path):
            return path
        suffix = self._settings.sentinel
        if suffix is None or not path.name.endswith(suffix):
            return None
        stem = path.name.removesuffix(suffix)
        suffixes = ("", *(pattern.removeprefix("*") for pattern in self._settings.patterns))
        beside = (path.with_name(stem + ending) for ending in suffixes if not set(ending) & set("*?[") and stem)
        return next((scan for scan in beside if self._scan.wants(scan) and scan.is_file()), None)

    def _take_events(self, now: float) -> None:
        """Report files that have been quiet for a moment, and those that are never quiet from time to time."""
        with self._lock:
            due = [
                path
                for path, (first, last) in self._pending.items()
                if now - last >= _QUIET_S or now - first >= _MAX_DELAY_S
            ]
        for path in due:
            try:
                found = path.lstat()
            except OSError:
                found = None
            if found is not None and path.is_file() and not path.is_symlink():
                self._source.report_file(FileFound(path, found.st_size, found.st_mtime_ns))
            with self._lock:
                # what changed while it was reported stays
                if self._pending.get(path, (0.0, now))[1] <= now:
                    self._pending.pop(path, None)


def _observer_class() -> Any:
    try:
        from watchdog.observers.inotify import InotifyObserver
    except (ImportError, OSError) as error:
        raise InputError(
            "watching folders by inotify needs the package watchdog: pip install 'tomopipe[trigger]', or set method: polling"
        ) from error
    return InotifyObserver


def _make_handler(take: Callable[[Path, bool], None]) -> Any:
    from watchdog.events import FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        """Passes on every event that may mean a new or changed file."""

        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("opened", "closed_no_write", "deleted"):
                return
            for text in (event.src_path, event.dest_path):
                if text:
                    path = Path(text if isinstance(text, str) else text.decode("utf-8", "surrogateescape"))
                    take(path, event.is_directory and event.event_type in ("created", "moved"))

    return Handler()
