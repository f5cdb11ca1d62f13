"""Follows tomoScan's scans from the changes of its PVs and says which file is finished, and which scan came to nothing.

Pure: it is fed with what the shell around it (`epics_source`) hears and reads, with times, and does nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .observation import Kind, Observation

Value = str | int | float

START: Final = "StartScan"
ABORT: Final = "AbortScan"
STATUS: Final = "ScanStatus"
SAVED: Final = "ImagesSaved"
FOLDER: Final = "FilePath"
STEM: Final = "FileName"
FILE: Final = "FullFileName_RBV"
CAPTURE: Final = "Capture_RBV"
CAPTURED: Final = "NumCaptured_RBV"
PLANNED: Final = "NumCapture_RBV"
WRITE: Final = "WriteStatus"

SCAN_PVS: Final = (START, ABORT, STATUS, SAVED, FOLDER, STEM)
PLUGIN_PVS: Final = (FILE, CAPTURE, CAPTURED, PLANNED, WRITE)
# Without these nothing can be said of a scan; the file plugin's counts may be missing.
NEEDED_PVS: Final = (START, FILE, CAPTURE)

_ABORTED = "it was aborted (AbortScan)"
_LOST = "the connection was lost meanwhile, or the images were not counted"
_DONE_STATUS = "Scan complete"
_OVERWRITE_STATUS = "Waiting for overwrite confirmation"
_MAX_RECORDINGS = 64


@dataclass(frozen=True)
class PvEvent:
    """The value of a PV, heard of or read.

    Attributes
    ----------
    name : str
        Name without prefix (`StartScan`); the key of what is metadata.
    value : str, int, float or None
        None where the connection was lost.
    time_s : float
        When it came, seconds of a clock that never goes back.
    asked_s : float or None
        When the read that it answers began; None where it came by itself.
    """

    name: str
    value: Value | None
    time_s: float
    asked_s: float | None = None


@dataclass(frozen=True)
class MonitorSettings:
    """How scans are judged.

    Attributes
    ----------
    source : str
        Name in observations.
    settle_s : float
        Time from the end of a scan (`StartScan` falls) to the reading by which it is judged, seconds.
    slack_s : float
        How much earlier than the start of a scan the start of its recording may be heard of, seconds: the two come
        from two servers.
    stalled_s : float
        How long a recording may stand still whose scan was lost sight of, seconds; then it counts as broken off.
    min_saved_fraction : float
        Least share of the planned images; the rest counts as lost frames.
    path_map : mapping
        Folders as the file plugin names them, and as this host does.
    """

    source: str = "epics"
    settle_s: float = 1.0
    slack_s: float = 2.0
    stalled_s: float = 600.0
    min_saved_fraction: float = 1.0
    path_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class _Scan:
    """One scan, from the rise of `StartScan` to its fall; `gap` where the connection was lost meanwhile."""

    began_s: float
    gap: bool = False
    plugin_gap: bool = False
    unseen: bool = False
    ended_s: float | None = None
    end_is_sure: bool = True
    may_be_two: bool = False
    abort: str | None = None
    abort_s: float = float("-inf")
    abort_file: str = ""
    abort_in_gap: bool = False
    statuses: list[str] = field(default_factory=list)
    saved: str | None = None
    metadata: dict[str, str | float] = field(default_factory=dict)


@dataclass(eq=False)
class _Recording:
    """One capture of the file plugin."""

    began_s: float
    name: str = ""
    captured: int = 0
    planned: int | None = None
    gap: bool = False
    is_closed: bool = False
    error: str | None = None
    condemned: str | None = None


class ScanMonitor:
    """Turns changes of PVs into observations.

    What it takes account of: `StartScan` falls after aborts and camera time-outs just as after good scans; tomoScan's own
    `FullFileName` is written after that and stale until then, so that the file plugin's is used; `ImagesSaved` is not
    brought up to date at the end, so that the file plugin's counts are used; `AbortScan` stays at 1 until somebody resets
    it, so that its rise counts; a plugin that waits for images after a time-out goes on with those of the live view, so
    that it is judged by its state soon after the end of the scan.

    Parameters
    ----------
    settings : MonitorSettings
        How scans are judged.
    """

    def __init__(self, settings: MonitorSettings | None = None) -> None:
        self._settings = settings or MonitorSettings()
        self._values: dict[str, Value] = {}
        self._before: dict[str, Value] = {}  # values before the connection was lost
        self._asked_s: dict[str, float] = {}
        self._running: _Scan | None = None
        self._ended: list[_Scan] = []
        self._recordings: list[_Recording] = []  # not yet judged, the last one may be open
        self._open: _Recording | None = None
        self._moved_s = float("-inf")  # when the count of images last moved
        self._out: list[Observation] = []

    @property
    def missing(self) -> list[str]:
        """PVs that are not known, and without which nothing can be said."""
        return [name for name in NEEDED_PVS if name not in self._values]

    @property
    def is_waiting(self) -> bool:
        """Whether a scan has ended of which nothing was said yet."""
        return bool(self._ended)

    @property
    def is_running(self) -> bool:
        """Whether a scan runs, as far as is known."""
        return self._running is not None

    def wants_reading(self, now_s: float) -> bool:
        """Whether a scan waits to be judged by fresh values: read all PVs, feed them with `asked_s`, then `tick`."""
        return any(self._is_settled(scan, now_s) and not self._is_fresh(scan) for scan in self._ended)

    def feed(self, event: PvEvent) -> list[Observation]:
        """Take note of a value, and return what follows from it."""
        if event.value is None:
            self._lose(event.name)
            return []
        known = self._values.get(event.name)
        before = self._before.pop(event.name, None)
        is_new = known is None
        self._values[event.name] = event.value
        if event.asked_s is not None:
            self._asked_s[event.name] = event.asked_s
        if is_new or event.value != known:
            handler = self._handlers.get(event.name)
            if handler is not None:
                handler(self, event, known if known is not None else before, is_new)
        return self._take()

    def tick(self, now_s: float) -> list[Observation]:
        """Judge the scans that can be judged now."""
        for scan in list(self._ended):
            if self._is_settled(scan, now_s) and self._is_fresh(scan) and not self._must_wait(scan, now_s):
                # with a scan after it, what the plugin has now is not of this one
                self._judge(scan, is_last=scan is self._ended[-1] and self._running is None)
        return self._take()

    # --- what the PVs say ---------------------------------------------------------------------------------------------

    def _on_start(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if event.value == 1:
            if self._running is None:
                plugin_gap = any(name not in self._values for name in NEEDED_PVS)
                self._running = _Scan(
                    float("-inf") if is_new else event.time_s, gap=is_new or plugin_gap, plugin_gap=plugin_gap
                )
            return
        scan, self._running = self._running, None
        if scan is None:
            if not is_new:
                return
            # nobody saw how the last scan ended
            scan = _Scan(float("-inf"), gap=True, unseen=True, plugin_gap=True)
        scan.ended_s = event.time_s
        scan.end_is_sure = not is_new
        scan.metadata = self._metadata()
        self._ended.append(scan)

    def _on_abort(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if event.value != 1 or old != 0:
            return
        if not is_new:
            if self._running is not None:
                self._running.abort, self._running.abort_s = _ABORTED, event.time_s
                self._running.abort_file = str(self._values.get(FILE, ""))
            return
        # after a gap the end of the scan may be heard of before its abort
        for scan in [self._running] if self._running else [scan for scan in self._ended if scan.gap]:
            scan.abort_in_gap = True

    def _on_status(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        status = str(event.value)
        if self._running is not None:
            self._running.statuses = [*self._running.statuses[-15:], status]
        elif status.startswith(_DONE_STATUS) and not is_new:
            # its server restarted StartScan in the middle, but the scan went on until now
            for scan in self._ended:
                if not scan.end_is_sure and not scan.unseen:
                    scan.end_is_sure, scan.ended_s = True, event.time_s

    def _on_saved(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if self._running is not None and not is_new:
            self._running.saved = str(event.value)

    def _on_capture(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if event.value == 1:
            if self._open is None:
                self._begin_recording(event.time_s, gap=is_new)
        elif self._open is not None:
            self._close_recording()

    def _on_file(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if self._open is None:
            return
        name = str(event.value)
        if self._open.captured > 0 and self._open.name and name != self._open.name:
            # capturing was begun anew, and its end in between was not seen
            self._begin_recording(event.time_s, gap=is_new)
        self._open.name = name

    def _on_captured(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        self._moved_s = event.time_s
        captured = int(event.value or 0)
        if self._open is not None:
            if captured < self._open.captured and not is_new:
                self._begin_recording(event.time_s, gap=False)
            self._open.captured = captured
        elif self._recordings and captured > self._recordings[-1].captured:
            self._recordings[-1].captured = captured  # the last count may come after the end

    def _on_planned(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if self._open is not None:
            self._open.planned = int(event.value or 0)

    def _on_write(self, event: PvEvent, old: Value | None, is_new: bool) -> None:
        if event.value == 1 and old == 0 and self._recordings:
            self._recordings[-1].error = "the file plugin reported a write error"

    _handlers = {  # noqa: RUF012 - of methods, never changed
        START: _on_start,
        ABORT: _on_abort,
        STATUS: _on_status,
        SAVED: _on_saved,
        CAPTURE: _on_capture,
        FILE: _on_file,
        CAPTURED: _on_captured,
        PLANNED: _on_planned,
        WRITE: _on_write,
    }

    def _lose(self, name: str) -> None:
        value = self._values.pop(name, None)
        self._asked_s.pop(name, None)
        if value is not None:
            self._before[name] = value
        concerned = [*self._ended, *([self._running] if self._running else [])]
        if name in PLUGIN_PVS:
            for scan in concerned:
                scan.gap = scan.plugin_gap = True
            if self._open is not None:
                self._open.gap = True
        elif name in (START, ABORT) and self._running is not None:
            self._running.gap = self._running.may_be_two = True

    # --- recordings ---------------------------------------------------------------------------------------------------

    def _begin_recording(self, time_s: float, *, gap: bool) -> None:
        if self._running is not None:
            # what ended before has no more to say: a new scan records
            for scan in list(self._ended):
                self._judge(scan, is_last=False)
        planned = self._values.get(PLANNED)
        self._open = _Recording(
            time_s, str(self._values.get(FILE, "")), 0, None if planned is None else int(planned), gap
        )
        if gap:
            self._open.captured = int(self._values.get(CAPTURED, 0))
        self._recordings = [*self._recordings, self._open][-_MAX_RECORDINGS:]

    def _close_recording(self) -> None:
        recording, self._open = self._open, None
        assert recording is not None
        recording.is_closed = True
        recording.name = str(self._values.get(FILE, recording.name))
        if recording.condemned is not None:
            # the plugin went on after the end of its scan and changed the file
            self._say("aborted", recording.name, recording.condemned, {})

    # --- judging ------------------------------------------------------------------------------------------------------

    def _is_settled(self, scan: _Scan, now_s: float) -> bool:
        assert scan.ended_s is not None
        return now_s >= scan.ended_s + self._settings.settle_s

    def _is_fresh(self, scan: _Scan) -> bool:
        """Whether what the file plugin says was asked for after the end of the scan; counts only where there are any."""
        assert scan.ended_s is not None
        due = scan.ended_s + self._settings.settle_s
        names = [FILE, CAPTURE, *(name for name in (CAPTURED, PLANNED) if name in self._values or name in self._before)]
        return all(name in self._values and self._asked_s.get(name, float("-inf")) >= due for name in names)

    def _must_wait(self, scan: _Scan, now_s: float) -> bool:
        """Whether the plugin still records a scan of which it is not known that it ended."""
        if scan.end_is_sure or scan.unseen or self._values.get(CAPTURE) != 1:
            return False
        assert scan.ended_s is not None
        return now_s - max(self._moved_s, scan.ended_s) < self._settings.stalled_s

    def _judge(self, scan: _Scan, *, is_last: bool = True) -> None:
        """Say what became of a scan; `is_last` where the plugin's present state is that at its end."""
        self._ended.remove(scan)
        recordings = self._take_recordings(scan, is_last=is_last)
        now = self._present_recording() if is_last and scan.plugin_gap else None
        if now is not None and any(one.name == now.name and not one.gap and one is not now for one in recordings):
            now = None  # it was seen from its beginning to its end
        if now is not None and (now.is_closed or self._may_be_of(now, scan)):
            recordings = [*(recording for recording in recordings if recording.name != now.name), now]
        if not recordings and not scan.gap:
            self._say_nothing_recorded(scan)
        aborted = self._aborted_recording(scan, recordings, now)
        # what was recorded under the same name later replaced the earlier
        for recording in {recording.name: recording for recording in recordings}.values():
            if recording.gap and recording is not now:
                self._say("candidate", recording.name, _LOST, scan.metadata)  # its end was not seen
            else:
                self._judge_recording(scan, recording, _ABORTED if recording is aborted else None)

    def _aborted_recording(
        self, scan: _Scan, recordings: list[_Recording], now: _Recording | None
    ) -> _Recording | None:
        """The recording that an abort ended: where two scans may be taken for one, not that of the second."""
        if not recordings:
            return None
        if scan.abort_in_gap:
            return recordings[0] if len(recordings) == 1 and not scan.plugin_gap else None
        if scan.abort is None:
            return None
        if not scan.may_be_two:
            return recordings[-1]
        before = [one for one in recordings if one.name == scan.abort_file and one.began_s <= scan.abort_s]
        return before[-1] if before and (before[-1] is not now or not now.is_closed) else None

    def _may_be_of(self, recording: _Recording, scan: _Scan) -> bool:
        """Whether what is being recorded was begun by a scan that has ended, and not by another one after it."""
        assert scan.ended_s is not None
        if scan.unseen:
            return False
        return recording.began_s <= scan.ended_s or (recording.gap and self._values.get(START) == 0)

    def _take_recordings(self, scan: _Scan, *, is_last: bool) -> list[_Recording]:
        """Recordings of a scan, in their order; those up to its end are not asked for again."""
        assert scan.ended_s is not None
        begin, end = scan.began_s - self._settings.slack_s, scan.ended_s
        mine = [recording for recording in self._recordings if begin <= recording.began_s <= end]
        if scan.unseen:
            mine = [recording for recording in mine if recording.is_closed]
        elif not mine and is_last and self._running is None:
            # the plugin's messages were late as a whole
            mine = [recording for recording in self._recordings if recording.began_s > end and recording.is_closed]
            scan.gap = scan.gap or bool(mine)
        self._recordings = [
            recording for recording in self._recordings if recording.began_s > end and recording not in mine
        ]
        return mine

    def _present_recording(self) -> _Recording | None:
        """What the plugin recorded last, by its present values."""
        name = str(self._values.get(FILE, ""))
        captured, planned = self._values.get(CAPTURED), self._values.get(PLANNED)
        if not name or not captured:
            return None
        if self._open is not None:
            self._open.captured = int(captured)
            return self._open
        return _Recording(
            float("-inf"), name, int(captured), None if planned is None else int(planned), gap=True, is_closed=True
        )

    def _judge_recording(self, scan: _Scan, recording: _Recording, abort: str | None) -> None:
        counts, is_complete = self._completeness(scan, recording)
        metadata = {**scan.metadata, **counts}
        said = (
            f"{counts['images_saved']:g} of {counts['images_planned']:g} images" if len(counts) == 2 else "the images"
        )
        reason = abort or recording.error
        if reason is None and not recording.is_closed:
            reason = f"the scan ended while the file plugin waited for images ({said} saved): a camera time-out"
        if reason is None and is_complete is False:
            reason = f"{said} saved: it was stopped, or the camera timed out"
        if reason is not None:
            if not recording.is_closed:
                recording.condemned = reason
            self._say("aborted", recording.name, reason, metadata)
            return
        is_sure = not scan.gap and not recording.gap and is_complete is True
        self._say(
            "finished" if is_sure else "candidate",
            recording.name,
            f"{said} saved" if is_sure else _LOST,
            metadata,
        )

    def _completeness(self, scan: _Scan, recording: _Recording) -> tuple[dict[str, float], bool | None]:
        """Counts of images, and whether all are there: by the plugin, else by `ImagesSaved`; None where nobody knows."""
        planned, captured = recording.planned, recording.captured
        if planned is None:
            found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", scan.saved or "")
            if not found:
                return {}, None
            captured, planned = int(found.group(1)), int(found.group(2))
            counts = {"images_saved": float(captured), "images_planned": float(planned)}
            # it is not brought up to date at the end: less than all says nothing
            return counts, True if captured >= planned > 0 else None
        counts = {"images_saved": float(captured), "images_planned": float(planned)}
        if planned <= 0:
            return {"images_saved": float(captured)}, None  # as many as come
        return counts, captured > 0 and captured >= self._settings.min_saved_fraction * planned

    def _say_nothing_recorded(self, scan: _Scan) -> None:
        folder, stem = str(self._values.get(FOLDER, "")), str(self._values.get(STEM, ""))
        if scan.abort:
            reason = f"nothing was recorded: {scan.abort}"
        elif any(status.startswith(_OVERWRITE_STATUS) for status in scan.statuses):
            reason = "nothing was recorded: its file was there already, and was not to be overwritten"
        else:
            reason = "nothing was recorded"
        self._say("aborted", f"{folder.rstrip('/')}/{stem}", reason, scan.metadata)

    def _metadata(self) -> dict[str, str | float]:
        known = {*SCAN_PVS, *PLUGIN_PVS}
        return {name: value for name, value in self._values.items() if name not in known and value != ""}

    def _say(self, kind: Kind, name: str, reason: str, metadata: Mapping[str, str | float]) -> None:
        if not name.strip("/"):
            return
        path = Path(mapped_path(name, self._settings.path_map))
        if path.is_absolute():
            self._out.append(Observation(path, self._settings.source, kind, reason, dict(metadata)))

    def _take(self) -> list[Observation]:
        out, self._out = self._out, []
        # what is said of a file late, together with what it is now, is not said of it any more
        last = {one.path: place for place, one in enumerate(out)}
        return [one for place, one in enumerate(out) if one.kind != "aborted" or last[one.path] == place]


def mapped_path(name: str, path_map: Mapping[str, str]) -> str:
    r"""Path on this host of a file as the detector's host names it; the longest folder that fits counts.

    >>> mapped_path("Z:\\data\\a.h5", {"Z:\\": "/gdata/"})
    '/gdata/data/a.h5'
    """
    for folder in sorted(path_map, key=len, reverse=True):
        theirs, ours = folder.replace("\\", "/").rstrip("/"), path_map[folder].rstrip("/")
        plain = name.replace("\\", "/") if "\\" in folder else name
        if plain == theirs or plain.startswith(theirs + "/"):
            return ours + plain[len(theirs) :]
    return name
