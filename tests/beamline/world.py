"""A beamline without a network: what tomoScan does reaches a `ScanMonitor` through two connections that delay, break and
come back, in simulated time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tomopipe.flows.trigger.epics_monitor import PLUGIN_PVS, SCAN_PVS, MonitorSettings, PvEvent, ScanMonitor
from tomopipe.flows.trigger.observation import Observation

from .tomoscan import PLUGIN_DEFAULTS, SCAN_DEFAULTS, Beamline

Value = str | int


@dataclass
class Wire:
    """The connection to one server: in order, late by `delay_s`, or cut."""

    world: World
    names: tuple[str, ...]
    delay_s: float = 0.0
    is_cut: bool = False
    on_the_way: deque[PvEvent] = field(default_factory=deque)

    def send(self, name: str, value: Value | None, asked_s: float | None = None) -> None:
        """A value leaves the server; nobody hears of it where the connection is cut."""
        if not self.is_cut and name in self.names:
            self.on_the_way.append(PvEvent(name, value, self.world.now_s + self.delay_s, asked_s))

    def arrived(self, now_s: float) -> list[PvEvent]:
        """What is through by now."""
        through = []
        while self.on_the_way and self.on_the_way[0].time_s <= now_s:
            through.append(self.on_the_way.popleft())
        return through

    def cut(self) -> None:
        """The connection breaks; what is on the way is lost, and the client notices."""
        if not self.is_cut:
            self.on_the_way.clear()
            self.is_cut = True
            for name in self.names:
                self.world.hear(PvEvent(name, None, self.world.now_s))

    def mend(self, order: list[str] | None = None) -> None:
        """The client is connected again and hears the present values, in any order."""
        if self.is_cut:
            self.is_cut = False
            for name in order or list(self.names):
                self.send(name, self.world.values[name])


class World:
    """tomoScan, its file plugin, two wires and the monitor at their end."""

    def __init__(self, settings: MonitorSettings | None = None) -> None:
        self.now_s = 1000.0
        self.values: dict[str, Value] = {**SCAN_DEFAULTS, **PLUGIN_DEFAULTS}
        self.monitor = ScanMonitor(settings or MonitorSettings())
        self.said: list[Observation] = []
        self.scan_wire = Wire(self, SCAN_PVS, is_cut=True)
        self.plugin_wire = Wire(self, PLUGIN_PVS, is_cut=True)
        self.tomoscan = Beamline(self._put_scan, self._put_plugin, self.pass_time, values=self.values)
        self.asked_s: float | None = None
        self.scan_wire.mend()
        self.plugin_wire.mend()

    def hear(self, event: PvEvent) -> None:
        """The monitor hears of an event."""
        self.said += self.monitor.feed(event)

    def pass_time(self, seconds: float) -> None:
        """Time passes, in steps; what is on the way arrives, and the shell does its part."""
        end = self.now_s + seconds
        while True:
            for wire in (self.scan_wire, self.plugin_wire):
                for event in wire.arrived(self.now_s):
                    self.hear(event)
            self.said += self.monitor.tick(self.now_s)
            if self.monitor.wants_reading(self.now_s) and (self.asked_s is None or self.now_s - self.asked_s > 0.5):
                self.asked_s = self.now_s
                for wire in (self.scan_wire, self.plugin_wire):
                    for name in wire.names:
                        wire.send(name, self.values[name], asked_s=self.now_s)
            if self.now_s >= end:
                return
            is_quiet = not self.scan_wire.on_the_way and not self.plugin_wire.on_the_way and not self.monitor.is_waiting
            self.now_s = end if is_quiet else min(end, self.now_s + 0.1)

    def settle(self) -> list[Observation]:
        """Wait until everything has been said, and return what was new."""
        self.pass_time(10.0)
        said, self.said = self.said, []
        return said

    def restart_tomoscan(self) -> None:
        """The IOC of tomoScan starts again: its PVs are as in the beginning."""
        self.scan_wire.cut()
        self.values.update(
            {name: value for name, value in SCAN_DEFAULTS.items() if name not in ("FilePath", "FileName")}
        )

    def restart_plugin(self) -> None:
        """The IOC of the camera starts again."""
        self.plugin_wire.cut()
        self.values.update(PLUGIN_DEFAULTS)

    def _put_scan(self, name: str, value: Value) -> None:
        self.scan_wire.send(name, value)

    def _put_plugin(self, name: str, value: Value) -> None:
        self.plugin_wire.send(name, value)
