"""Kills a submitter at a line of the submission path, again and again, and says how often each scan was started.

A program of its own, so that it can fork without threads: `crash_driver.py FOLDER service|local KILLS`; prints JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tomopipe.flows.local.run_store import RunStore
from tomopipe.flows.trigger import backends, ledger, rules, submitter
from tomopipe.flows.trigger.backends import FoundRun, LocalBackend, RunStatus
from tomopipe.flows.trigger.config import LocalConfig, Rule, SubmitterConfig
from tomopipe.flows.trigger.entry import Entry, identify
from tomopipe.flows.trigger.ledger import Ledger
from tomopipe.flows.trigger.observation import Observation
from tomopipe.flows.trigger.submitter import Submitter

SCANS = 2
LAG_S, SETTLE_S = 0.05, 0.12
TRACED = {module.__file__ for module in (backends, ledger, rules, submitter)} | {__file__}
DATABASE = str(Path(ledger.__file__).parents[1] / "local" / "database.py")


class FileService:
    """A service in another place: what was sent there stays, whoever dies, and its list lags behind."""

    settle_s = SETTLE_S

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "started"

    def find(self, key: str) -> FoundRun | None:
        for line in self._journal.read_text().splitlines() if self._journal.exists() else ():
            name, started = line.split()
            if name == key and time.time() - float(started) >= LAG_S:
                return FoundRun(f"run-{key}", "active")
        return None

    def submit(self, entry: Entry, key: str) -> str:
        line = f"{key} {time.time()}\n"
        descriptor = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return f"run-{key}"

    def status(self, run_id: str) -> RunStatus:
        return RunStatus("succeeded")

    def close(self) -> None:
        pass


class ForkedRuns(LocalBackend):
    """Local runs whose process is a fork that records its run, instead of a pipeline."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalConfig(output=folder / "results"), folder / "runs")
        self._journal = folder / "started"

    def _start(self, key: str, descriptor: int) -> None:
        process = os.fork()
        if process:
            return
        sys.settrace(None)
        os.setsid()
        # The lock stays with this process; the beginning of a real one takes seconds.
        time.sleep(0.03)
        store = RunStore(Path(os.environ["TOMOPIPE_HOME"]) / "runs.sqlite")
        store.create_run(label="x", scan="x", input={}, definition_digest="d", run_id=key)
        with self._journal.open("a") as journal:
            journal.write(f"{key} {time.time()}\n")
        store.finish(key, "SUCCEEDED")
        os._exit(0)


class Targets:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def get(self, target: str) -> Any:
        return self._backend

    def settle_s(self, target: str) -> float:
        return float(self._backend.settle_s)


class Nobody:
    def tell(self, about: str, text: str) -> None:
        pass

    def settled(self, about: str) -> None:
        pass


def work(folder: Path, kind: str, until_done: bool, kill_at: int | None) -> int:
    """Watch; the process kills itself at a line. Returns how many lines were passed."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in TRACED and frame.f_code.co_filename != DATABASE:
            return None
        if event == "line":
            lines += 1
            if lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    settings = SubmitterConfig(poll_s=0.01, retry_first_s=0.01, retry_max_s=0.05, settle_s=SETTLE_S)
    backend = FileService(folder) if kind == "service" else ForkedRuns(folder)
    book = Ledger(folder / "ledger.sqlite")
    one = Submitter(book, [Rule(name="all", deployment="x")], Targets(backend), settings, Nobody())
    deadline = time.monotonic() + 20
    sys.settrace(trace)
    while time.monotonic() < deadline:
        one.step()
        if not until_done or book.counts()["done"] == SCANS:
            break
        time.sleep(0.01)
    sys.settrace(None)
    return lines


def forked(folder: Path, kind: str, until_done: bool, kill_at: int | None) -> bool:
    """`work` in a process of its own; whether it was killed."""
    process = os.fork()
    if process == 0:
        try:
            work(folder, kind, until_done, kill_at)
            os._exit(0)
        finally:
            os._exit(70)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the submitter met a fault"
    return False


def prepare(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.environ["TOMOPIPE_HOME"] = str(folder / "home")
    book = Ledger(folder / "ledger.sqlite")
    for number in range(SCANS):
        scan = folder / f"scan_{number}.h5"
        scan.write_text("frames")
        noted = book.observe(Observation(scan, "files", "finished"), identify(scan))
        found = identify(scan)
        assert noted.number is not None and found is not None
        assert book.set_ready(noted.number, found, {}) == "ready"


def wait_for_runs(folder: Path) -> None:
    """Until no forked run holds its lock."""
    for lock in (folder / "runs").glob("*.lock"):
        descriptor = os.open(lock, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.close(descriptor)


def main(folder: Path, kind: str, kills: int) -> dict[str, Any]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prepare(folder / "whole")
    whole = work(folder / "whole", kind, False, None)
    chance = random.Random(7)
    killed, wrong = 0, []
    for number in range(kills):
        place = folder / f"{number}"
        prepare(place)
        # Evenly over the path; then the one who takes over is killed too, anywhere.
        line = 1 + number * whole // kills
        times = int(forked(place, kind, False, line))
        if number % 2:
            times += int(forked(place, kind, True, chance.randint(1, whole)))
        killed += times
        forked(place, kind, True, None)
        wait_for_runs(place)
        started = [text.split()[0] for text in (place / "started").read_text().splitlines()]
        counts = Ledger(place / "ledger.sqlite").counts()
        if len(started) != SCANS or len(set(started)) != SCANS or counts["done"] != SCANS:
            wrong.append({"line": line, "started": started, "counts": counts})
    return {"lines": whole, "killed": killed, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
