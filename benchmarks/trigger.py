"""How the trigger bears load: a folder of old files at start-up, a thousand scans at once, and hours of scans.

    python benchmarks/trigger.py --old 100000 --burst 1000 --minutes 60

Scans are whole, small HDF5 files; runs are made by a stand-in in this process that answers at once, so that what is measured
is the trigger: its file source, ledger, checks and submitter, in the process that `tomopipe watch` is. Times, memory over
time and counts go to `results/trigger.json`.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from tomopipe.flows.trigger.backends import FoundRun, RunStatus
from tomopipe.flows.trigger.config import TriggerConfig
from tomopipe.flows.trigger.entry import Entry
from tomopipe.flows.trigger.service import Trigger

RESULTS = Path(__file__).parent / "results" / "trigger.json"
_MIB = 2**20


class Runs:
    """Takes every run and says that it succeeded a while later."""

    settle_s = 5.0

    def __init__(self) -> None:
        self.started: dict[str, str] = {}

    def get(self, target: str) -> Runs:
        return self

    def find(self, key: str) -> FoundRun | None:
        return FoundRun(key, "active") if key in self.started else None

    def submit(self, entry: Entry, key: str) -> str:
        self.started[key] = entry.path
        return key

    def status(self, run_id: str) -> RunStatus:
        return RunStatus("succeeded")

    def close(self) -> None:
        pass


class Targets:
    """As the submitter wants them: one back end for all."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def get(self, target: str) -> Runs:
        return self._runs

    def settle_s(self, target: str) -> float:
        return self._runs.settle_s


class Watched:
    """A trigger over one folder, in threads of this process."""

    def __init__(self, folder: Path, ledger: Path, method: str, not_before: str) -> None:
        self.runs = Runs()
        config = {
            "format": "tomopipe-trigger/1",
            "ledger": str(ledger),
            "sources": {
                "files": [{"folders": [str(folder)], "method": method, "interval_s": 2, "not_before": not_before}]
            },
            "finished": {"stable_s": 2},
            "rules": [{"name": "all", "deployment": "benchmark"}],
            "submitter": {"max_active": 10_000, "poll_s": 1},
        }
        self.trigger = Trigger(TriggerConfig.model_validate(config), targets=Targets(self.runs))
        self._thread = threading.Thread(target=self.trigger.run)
        self._thread.start()

    def stop(self) -> None:
        self.trigger.stop()
        self._thread.join()


def small_scan(path: Path) -> bytes:
    """A whole scan of few bytes."""
    with h5py.File(path, "w") as file:
        file["/exchange/data"] = np.random.default_rng(1).integers(100, 900, (8, 4, 6), dtype=np.uint16)
        file["/exchange/data_white"] = np.full((2, 4, 6), 1000, np.uint16)
        file["/exchange/data_dark"] = np.full((2, 4, 6), 10, np.uint16)
        file["/exchange/theta"] = np.linspace(0, 180, 8, endpoint=False)
    content = path.read_bytes()
    path.unlink()
    return content


def memory_mib() -> float:
    """Memory of this process, MiB."""
    gc.collect()
    return psutil.Process().memory_info().rss / _MIB


def wait_for(done: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until something is done."""
    began = time.perf_counter()
    while not done():
        if time.perf_counter() - began > timeout_s:
            raise SystemExit(f"not done within {timeout_s:g} s")
        time.sleep(0.02)
    return time.perf_counter() - began


def old_files(folder: Path, count: int, scan: bytes, method: str) -> dict[str, Any]:
    """Start over a folder that is full of files of earlier days; then one new scan."""
    data = folder / "old"
    data.mkdir()
    long_ago = time.time() - 30 * 86400
    for number in range(count):
        path = data / f"scan_{number:06d}.h5"
        path.write_bytes(b"old")
        os.utime(path, (long_ago, long_ago))
    before, began = memory_mib(), time.perf_counter()
    watched = Watched(data, folder / "old.sqlite", method, _yesterday())
    try:
        wait_for(lambda: watched.trigger.sources[0].health()["problem"] is None, 600)
        ready_s = time.perf_counter() - began
        grown = memory_mib() - before
        (data / "new.part").write_bytes(scan)
        (data / "new.part").rename(data / "new.h5")
        new_s = wait_for(lambda: len(watched.runs.started) == 1, 120)
        time.sleep(3)
        entries = sum(watched.trigger.ledger.counts().values())
        return {
            "files": count,
            "method": method,
            "ready_s": round(ready_s, 2),
            "memory_grown_mib": round(grown, 1),
            "new_scan_started_after_s": round(new_s, 2),
            "entries_in_ledger": entries,
        }
    finally:
        watched.stop()


def burst(folder: Path, count: int, scan: bytes) -> dict[str, Any]:
    """Scans that are all there at once."""
    data = folder / "burst"
    data.mkdir()
    watched = Watched(data, folder / "burst.sqlite", "inotify", _yesterday())
    try:
        wait_for(lambda: watched.trigger.sources[0].health()["problem"] is None, 60)
        before, began = memory_mib(), time.perf_counter()
        for number in range(count):
            (data / f"scan_{number:06d}.h5").write_bytes(scan)
        written_s = time.perf_counter() - began
        wait_for(lambda: len(watched.runs.started) >= count, 900)
        done_s = time.perf_counter() - began
        time.sleep(3)
        assert len(watched.runs.started) == count, "a scan was started twice"
        return {
            "scans": count,
            "written_s": round(written_s, 2),
            "all_started_after_s": round(done_s, 2),
            "memory_grown_mib": round(memory_mib() - before, 1),
        }
    finally:
        watched.stop()


def load(folder: Path, minutes: float, per_minute: float, scan: bytes) -> dict[str, Any]:
    """Scans all the time; old ones are removed as a beamline does."""
    data = folder / "load"
    data.mkdir()
    watched = Watched(data, folder / "load.sqlite", "inotify", _yesterday())
    curve: list[dict[str, float]] = []
    try:
        wait_for(lambda: watched.trigger.sources[0].health()["problem"] is None, 60)
        began = time.monotonic()
        sampled, number = float("-inf"), 0
        while (now := time.monotonic() - began) < 60 * minutes:
            if now - sampled >= max(1.0, 60 * minutes / 60):
                sampled = now
                process = psutil.Process()
                curve.append(
                    {
                        "minute": round(now / 60, 2),
                        "memory_mib": round(memory_mib(), 1),
                        "files_open": process.num_fds(),
                        "threads": process.num_threads(),
                        "scans": number,
                    }
                )
            partial = data / f"scan_{number:06d}.part"
            partial.write_bytes(scan)
            partial.rename(partial.with_suffix(".h5"))
            number += 1
            if number > 500:
                (data / f"scan_{number - 501:06d}.h5").unlink()
            time.sleep(max(0.0, 60 * number / per_minute - (time.monotonic() - began)))
        wait_for(lambda: len(watched.runs.started) >= number, 300)
        half = len(curve) // 2
        growth = curve[-1]["memory_mib"] - curve[half]["memory_mib"]
        return {
            "minutes": minutes,
            "scans": number,
            "started": len(watched.runs.started),
            "growth_in_second_half_mib": round(growth, 1),
            "curve": curve,
        }
    finally:
        watched.stop()


def _yesterday() -> str:
    return (datetime.date.today() - datetime.timedelta(days=1)).isoformat()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=int, default=100_000, help="files at start-up")
    parser.add_argument("--burst", type=int, default=1000, help="scans at once")
    parser.add_argument("--minutes", type=float, default=60.0, help="time under load")
    parser.add_argument("--per-minute", type=float, default=60.0, help="scans a minute under load")
    parser.add_argument("--folder", type=Path, help="where files go (a folder for temporary files by default)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trigger-benchmark-", dir=options.folder))
    try:
        scan = small_scan(folder / "one.h5")
        results: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        }
        if options.old:
            results["old_files"] = []
            for method in ("inotify", "polling"):
                results["old_files"].append(old_files(folder, options.old, scan, method))
                shutil.rmtree(folder / "old")
                for one in folder.glob("old.sqlite*"):
                    one.unlink()
                print(json.dumps(results["old_files"][-1]), flush=True)
        if options.burst:
            results["burst"] = burst(folder, options.burst, scan)
            print(json.dumps(results["burst"]), flush=True)
        if options.minutes:
            results["load"] = load(folder, options.minutes, options.per_minute, scan)
            print(json.dumps({key: value for key, value in results["load"].items() if key != "curve"}), flush=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
