"""Listens to tomoScan and its file plugin over Channel Access, and reads when a scan is to be judged.

What the values mean is the work of `epics_monitor`; servers are found as EPICS does it (`EPICS_CA_ADDR_LIST`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tomopipe.functions.errors import InputError, TomopipeError

from .epics_monitor import (
    FILE,
    FOLDER,
    PLUGIN_PVS,
    SCAN_PVS,
    STATUS,
    STEM,
    MonitorSettings,
    PvEvent,
    ScanMonitor,
    Value,
)
from .observation import Observation

Report = Callable[[Observation], None]

_log = logging.getLogger(__name__)
_TICK_S = 0.1
_CONNECTING_S = 0.2
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0
_PLUGIN_PREFIX = "FilePluginPVPrefix"
_TEXTS = frozenset({FILE, FOLDER, STEM, STATUS})

DEFAULT_METADATA: Mapping[str, str] = {
    "sample": ":SampleName",
    "proposal": ":ProposalNumber",
    "scan_type": ":ScanType",
    "exposure_time_s": ":ExposureTime",
    "angles": ":NumAngles",
}
"""Metadata for rules, and the PVs that tell it; PVs that a beamline does not have tell nothing."""


@dataclass(frozen=True)
class EpicsSettings:
    """Which tomoScan, and how patiently.

    Attributes
    ----------
    prefix : str
        Prefix of tomoScan's PVs, `$(P)$(R)`: `2bmb:TomoScan:`.
    file_plugin : str or None
        Prefix of the file plugin's PVs: `2bmbSP1:HDF1:`. None: as tomoScan's `FilePluginPVPrefix` says.
    path_map : mapping
        Folders as the detector's host names them, and as this host does.
    metadata : mapping
        Names of metadata, and the PV of each, beside `DEFAULT_METADATA`; a leading ":" stands for `prefix`.
    settle_s : float
        Time from the end of a scan to the reading by which it is judged, seconds.
    poll_s : float
        Time between two readings of all PVs, for messages that were lost, seconds.
    timeout_s : float
        How long a server may take to answer; then its PVs count as lost, seconds.
    min_saved_fraction : float
        Least share of the planned images.
    """

    prefix: str
    file_plugin: str | None = None
    path_map: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    settle_s: float = 1.0
    poll_s: float = 10.0
    timeout_s: float = 5.0
    min_saved_fraction: float = 1.0


class EpicsSource:
    """Reports the scans of one tomoScan; reconnects by itself.

    Parameters
    ----------
    settings : EpicsSettings
        Which one.
    name : str
        Name in observations and messages.
    """

    def __init__(self, settings: EpicsSettings, name: str = "epics") -> None:
        self.name = name
        self._settings = settings
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._report: Report | None = None
        self._undelivered: deque[Observation] = deque()
        self._retry_at = 0.0
        self._last_event: float | None = None
        self._problem: str | None = "not started"

    def start(self, report: Report) -> None:
        """Begin to listen.

        Raises
        ------
        InputError
            The package for Channel Access is not installed.
        """
        _caproto_context()
        self._report = report
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._settings.timeout_s + 5.0)

    def health(self) -> dict[str, Any]:
        """Whether it listens, the time of the last message, and what is wrong."""
        alive = self._thread is not None and self._thread.is_alive()
        return {
            "alive": alive,
            "last_event": self._last_event,
            "problem": self._problem,
            "undelivered": len(self._undelivered),
        }

    def _run(self) -> None:
        delay = _FIRST_RETRY_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - shown in health(); listening begins anew
                self._problem = f"{type(error).__name__}: {error}"
                _log.exception("%s: listening to %s failed and begins anew", self.name, self._settings.prefix)
            delay = _FIRST_RETRY_S if time.monotonic() - began > _LONGEST_RETRY_S else min(2 * delay, _LONGEST_RETRY_S)
            self._stop.wait(delay)

    def _follow(self) -> None:
        settings = self._settings
        monitor = ScanMonitor(
            MonitorSettings(
                source=self.name,
                settle_s=settings.settle_s,
                min_saved_fraction=settings.min_saved_fraction,
                path_map=settings.path_map,
            )
        )
        link = _Link(settings)
        try:
            was_running = False
            while not self._stop.is_set():
                for event in link.events(_TICK_S):
                    self._last_event = time.time()
                    self._undelivered.extend(monitor.feed(event))
                now = time.monotonic()
                link.give_up_waiting(now)
                if link.may_ask(now, wanted=monitor.wants_reading(now), at_once=monitor.is_running and not was_running):
                    link.ask(now)
                was_running = monitor.is_running
                self._undelivered.extend(monitor.tick(now))
                self._deliver(now)
                missing = ", ".join(monitor.missing)
                self._problem = f"{settings.prefix}: not connected: {missing}" if missing else None
        finally:
            link.close()

    def _deliver(self, now: float) -> None:
        """Report what was observed, in its order; what cannot be recorded now is kept."""
        if now < self._retry_at:
            return
        assert self._report is not None
        while self._undelivered:
            try:
                self._report(self._undelivered[0])
            except TomopipeError as error:
                self._retry_at = now + _FIRST_RETRY_S
                _log.warning("%s: %s cannot be recorded now: %s", self.name, self._undelivered[0].path, error)
                return
            self._undelivered.popleft()


class _Link:
    """The connections to the PVs: their messages in one queue, in the order in which each server sent them."""

    def __init__(self, settings: EpicsSettings) -> None:
        self._settings = settings
        self._queue: queue.SimpleQueue[PvEvent | str] = queue.SimpleQueue()  # a text: a PV that was connected
        self._context = _caproto_context()()
        self._pvs: dict[str, Any] = {}
        self._kept: list[Any] = []  # caproto holds callbacks weakly
        self._asked: dict[str, tuple[float, float]] = {}  # key -> (when, deadline)
        self._next_ask = 0.0
        self._plugin_seen: float | None = None
        self.connected: set[str] = set()
        metadata = {**DEFAULT_METADATA, **settings.metadata}
        self._metadata = {key: pv for key, pv in metadata.items() if pv}
        names = {name: settings.prefix + name for name in SCAN_PVS}
        if settings.file_plugin is None:
            names[_PLUGIN_PREFIX] = settings.prefix + _PLUGIN_PREFIX
        self._plugin: str | None = None
        self._add(names, subscribe=True)
        self._add({key: self._full_name(pv) for key, pv in self._metadata.items()}, subscribe=False)
        if settings.file_plugin is not None:
            self._add_plugin(settings.file_plugin)

    def close(self) -> None:
        self._context.disconnect()

    def events(self, wait_s: float) -> list[PvEvent]:
        """What came in; waits for the first a little."""
        found: list[PvEvent | str] = []
        try:
            found.append(self._queue.get(timeout=wait_s))
            while True:
                found.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        events = []
        for event in found:
            if isinstance(event, str):
                self.connected.add(event)
                # some servers send no message of what is empty: read it
                self._next_ask = min(self._next_ask, time.monotonic() + _CONNECTING_S)
            elif self._take_note(event):
                events.append(event)
        return events

    def may_ask(self, now: float, *, wanted: bool, at_once: bool) -> bool:
        """Whether it is time to read all PVs."""
        if self._asked:
            return False
        if wanted:
            # the counts of the plugin connect a moment after its name
            return self._plugin_seen is not None and (
                self.connected.issuperset(PLUGIN_PVS) or now - self._plugin_seen > self._settings.timeout_s
            )
        return at_once or now >= self._next_ask

    def ask(self, now: float) -> None:
        """Read all connected PVs; the answers come as events, behind what their servers sent before."""
        self._next_ask = now + self._settings.poll_s
        # those that gave no answer before are asked too: that is how they are found again
        for key, pv in self._pvs.items():
            if not pv.connected:
                continue
            self._asked[key] = (now, now + self._settings.timeout_s)
            try:
                pv.read(
                    wait=False,
                    callback=partial(self._on_value, key, now),
                    timeout=self._settings.timeout_s,
                    data_type=self._type_of(key, pv),
                )
            except _gone_errors():
                self._put(key, None, None)  # it went away at this moment

    def give_up_waiting(self, now: float) -> None:
        """Take PVs for lost whose server does not answer."""
        for key in [key for key, (_, deadline) in self._asked.items() if now > deadline]:
            del self._asked[key]
            self._put(key, None, None)

    def _take_note(self, event: PvEvent) -> bool:
        """Keep account of connections and answers; False where the monitor has no use for the event."""
        if event.value is None:
            self.connected.discard(event.name)
            self._asked.pop(event.name, None)
        else:
            self.connected.add(event.name)
            if event.asked_s is not None and self._asked.get(event.name, (None, 0.0))[0] == event.asked_s:
                del self._asked[event.name]
        if FILE not in self.connected:
            self._plugin_seen = None
        elif self._plugin_seen is None:
            self._plugin_seen = event.time_s
        if event.name != _PLUGIN_PREFIX:
            return True
        prefix = str(event.value or "")
        if prefix and self._plugin is None:
            self._add_plugin(prefix)
        elif prefix and prefix != self._plugin:
            raise InputError(f"{self._settings.prefix}{_PLUGIN_PREFIX} changed from {self._plugin} to {prefix}")
        return False

    def _add_plugin(self, prefix: str) -> None:
        self._plugin = prefix
        self._add({name: prefix + name for name in PLUGIN_PVS}, subscribe=True)

    def _add(self, names: Mapping[str, str], *, subscribe: bool) -> None:
        for (key, _), pv in zip(names.items(), self._context.get_pvs(*names.values(), timeout=None), strict=True):
            self._pvs[key] = pv
            on_state = partial(self._on_state, key)
            self._kept.append(on_state)
            pv.connection_state_callback.add_callback(on_state, run=True)
            if subscribe:
                on_message = partial(self._on_message, key)
                self._kept.append(on_message)
                pv.subscribe().add_callback(on_message)

    def _full_name(self, pv: str) -> str:
        return self._settings.prefix + pv[1:] if pv.startswith(":") else pv

    def _type_of(self, key: str, pv: Any) -> Any:
        """Metadata of choices come as the words that people see."""
        channel = pv.channel
        if key in self._metadata and channel is not None and getattr(channel.native_data_type, "name", "") == "ENUM":
            return _string_type()
        return None

    # --- called in caproto's threads: they only take note --------------------------------------------------------------

    def _on_message(self, key: str, subscription: Any, response: Any) -> None:
        self._put(key, plain_value(key, response), None)

    def _on_value(self, key: str, asked_s: float, response: Any) -> None:
        self._put(key, plain_value(key, response), asked_s)

    def _on_state(self, key: str, pv: Any, state: str) -> None:
        if state == "disconnected":
            self._put(key, None, None)
        elif state == "connected":
            self._queue.put(key)

    def _put(self, key: str, value: Value | None, asked_s: float | None) -> None:
        self._queue.put(PvEvent(key, value, time.monotonic(), asked_s))


def plain_value(name: str, response: Any) -> Value:
    """Value of a message as text or number; character arrays, in which areaDetector and tomoScan keep names, as text."""
    data = response.data
    if isinstance(data, bytes):
        return _text(data)
    items = list(data)
    if items and isinstance(items[0], bytes):
        return _text(items[0])
    if name in _TEXTS or len(items) > 1:
        return _text(bytes(int(item) & 0xFF for item in items))
    if not items:
        return ""
    number = items[0].item() if hasattr(items[0], "item") else items[0]
    return number if isinstance(number, int | float) else str(number)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape").strip()


def _caproto_context() -> Any:
    try:
        from caproto.threading.client import Context
    except ImportError as error:
        raise InputError(
            "listening to EPICS needs the package caproto: pip install 'tomopipe[trigger]', or take out sources: epics"
        ) from error
    return Context


def _gone_errors() -> tuple[type[Exception], ...]:
    """What caproto raises where a server goes away while something is asked of it."""
    from caproto import CaprotoError

    return CaprotoError, OSError, RuntimeError, AttributeError, TimeoutError


def _string_type() -> Any:
    from caproto import ChannelType

    return ChannelType.STRING
