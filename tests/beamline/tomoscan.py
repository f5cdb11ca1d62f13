"""A beamline of tomoScan and its file plugin, with the PVs that they have and in the order in which they write them.

Puts go to two servers (tomoScan's and the camera's); what stands behind them is given: an IOC, or a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Put = Callable[[str, "str | int"], None]
Outcome = Literal["good", "aborted", "timed out", "timed out, goes on", "not overwritten", "write error"]

SCAN_DEFAULTS: dict[str, str | int] = {
    "StartScan": 0,
    "AbortScan": 0,
    "ScanStatus": "",
    "ImagesSaved": "",
    "ImagesCollected": "",
    "FilePath": "/data/",
    "FileName": "scan",
    "FullFileName": "",
    "NumAngles": 20,
    "ScanType": 0,
    "SampleName": "sandstone",
    "FilePluginPVPrefix": "",
}
PLUGIN_DEFAULTS: dict[str, str | int] = {
    "FullFileName_RBV": "",
    "Capture_RBV": 0,
    "NumCaptured_RBV": 0,
    "NumCapture_RBV": 1,
    "WriteStatus": 0,
}


@dataclass
class Beamline:
    """Acts tomoScan. `put_scan` and `put_plugin` change a PV of the one server and of the other; `pause` lets time pass."""

    put_scan: Put
    put_plugin: Put
    pause: Callable[[float], None]
    values: dict[str, str | int] = field(default_factory=lambda: {**SCAN_DEFAULTS, **PLUGIN_DEFAULTS})
    on_file: Callable[[str, int, int], None] = lambda name, saved, planned: None

    def scan(self, name: str, *, planned: int = 20, saved: int | None = None, outcome: Outcome = "good") -> None:
        """A scan from its start to its end, as tomoScan and areaDetector run it."""
        self.begin(name, planned=planned, outcome=outcome)
        if outcome != "not overwritten":
            self.record(planned if saved is None else saved)
            self.stop(name, outcome=outcome)
        self.end(outcome=outcome)

    def begin(self, name: str, *, planned: int = 20, outcome: Outcome = "good") -> None:
        """`begin_scan`: status, the plugin's path, then capture."""
        self._scan("StartScan", 1)
        self._scan("ScanStatus", "Beginning scan")
        self.pause(0.1)
        if outcome == "not overwritten":
            self._scan("ScanStatus", "Waiting for overwrite confirmation")
            return
        self._plugin("NumCapture_RBV", planned)
        # the plugin opens its file as capturing begins, and tells of it first
        self._plugin("FullFileName_RBV", name)
        self._plugin("NumCaptured_RBV", 0)
        self._plugin("Capture_RBV", 1)
        self._scan("ScanStatus", "Collecting projections")

    def record(self, saved: int) -> None:
        """Images come in, up to so many."""
        planned = int(self.values["NumCapture_RBV"])
        for count in range(int(self.values["NumCaptured_RBV"]) + 1, saved + 1):
            self.pause(0.01)
            self._plugin("NumCaptured_RBV", count)
            # it is not brought up to date after the last image
            if count < planned and count % 5 == 0:
                self._scan("ImagesSaved", f"{count}/{planned}")
        if saved == planned:
            self._plugin("Capture_RBV", 0)

    def stop(self, name: str, *, outcome: Outcome = "good") -> None:
        """What ends the recording."""
        if outcome == "aborted":
            self._scan("AbortScan", 1)
        if outcome == "write error":
            self._plugin("WriteStatus", 1)
        if outcome != "timed out, goes on":
            self._plugin("Capture_RBV", 0)
        self.pause(0.2)
        self.on_file(name, int(self.values["NumCaptured_RBV"]), int(self.values["NumCapture_RBV"]))

    def end(self, outcome: Outcome = "good") -> None:
        """`end_scan`: the same after every outcome, and the file's name last."""
        self._scan("ScanStatus", "Scan complete")
        self._scan("StartScan", 0)
        self.pause(0.02)
        self._scan("FullFileName", self.values["FullFileName_RBV"])
        if outcome == "write error":
            self._plugin("WriteStatus", 0)

    def live_view_fills_up(self) -> None:
        """After a time-out the plugin takes the images of the live view for those that it waits for."""
        for count in range(int(self.values["NumCaptured_RBV"]) + 1, int(self.values["NumCapture_RBV"]) + 1):
            self._plugin("NumCaptured_RBV", count)
        self._plugin("Capture_RBV", 0)

    def reset_abort(self) -> None:
        """The operator's button; tomoScan leaves it pressed."""
        self._scan("AbortScan", 0)

    def _scan(self, name: str, value: str | int) -> None:
        self.values[name] = value
        self.put_scan(name, value)

    def _plugin(self, name: str, value: str | int) -> None:
        if self.values[name] != value:  # areaDetector tells of changes only
            self.values[name] = value
            self.put_plugin(name, value)
