"""Shows how a local run goes: one bar a state on a terminal, plain lines elsewhere.

Reads the progress notes of the run directory; nothing depends on them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tomopipe.functions.inspection import CAMEL_CASE, STEP_STATES
from tomopipe.functions.outputs import SLAB_STAGES, projections_shape
from tomopipe.functions.rundir import RunDirectory

from . import actions

_STAGES: dict[str, str] = {name: stage for stage, name in (*CAMEL_CASE.items(), *STEP_STATES.items())}
_INTERVAL_S = 0.25
_LINE_INTERVAL_S = 10.0


class ProgressDisplay(actions.RunObserver):
    """Observer that draws a run's progress to a stream, usually stderr; use it as a context.

    Parameters
    ----------
    stream : TextIO
        Bars where it is a terminal, else plain lines.
    quiet : bool
        Draw nothing.
    """

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        console = Console(file=stream, highlight=False)
        self._view: _Bars | _Lines | None = None
        if not quiet:
            self._view = _Bars(console) if console.is_terminal else _Lines(stream)
        self._run: RunDirectory | None = None
        self._state: str | None = None
        self._bytes: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        self._draw(lambda view: view.open())
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watcher.join()
        self._draw(lambda view: view.close())

    def state_started(self, state: str, state_type: str) -> None:
        """Add a bar for an action's state."""
        if state_type == "Action":
            self._draw(lambda view: view.start(state))
            self._state, self._bytes = state, None

    def state_finished(
        self, state: str, status: actions.ActionOutcome | Literal["CANCELLED"], details: actions.JsonObject
    ) -> None:
        """Complete a state's bar."""
        if state == "Inspect" and status == "SUCCEEDED":
            self._run = RunDirectory(Path(details["details"]["results"][0]["output"]["run"]))
        if state == self._state:
            self._state = None
            self._draw(lambda view: view.finish(state, status))

    def progress(self, state: str, progress: actions.Progress) -> None:
        """Remember how many bytes a transfer has copied; a stage's rows are read from its notes."""
        if progress.unit == "byte" and state == self._state:
            self._bytes = (progress.done, progress.total)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            state, copied = self._state, self._bytes
            if state is None:
                continue
            if copied is not None:
                amount = (*copied, "bytes")
            elif self._run is not None and state in _STAGES:
                amount = stage_progress(self._run, state)
            else:
                continue
            self._draw(functools.partial(self._update, state, amount))

    def _update(self, state: str, amount: tuple[int, int, str], view: _Bars | _Lines) -> None:
        # The state may have ended meanwhile; what is late is not drawn.
        if state == self._state:
            view.update(state, *amount)

    def _draw(self, action: Callable[[_Bars | _Lines], None]) -> None:
        """Draw, or give up drawing for good where the stream is gone: a run must not end with its watcher."""
        with self._lock:
            if self._view is not None:
                try:
                    action(self._view)
                except (OSError, ValueError):
                    self._view = None


def stage_progress(run: RunDirectory, state: str) -> tuple[int, int, str]:
    """How far a stage is, from the notes of its tasks: done, in all, and of what.

    Returns
    -------
    done, total : int
    unit : str
        "rows", or "%" of the work for a stage that takes the volume as a whole.
    """
    stage = _STAGES[state]
    notes = []
    for path in (run.root / "progress" / stage).glob("*.json"):
        # A note may be replaced, or its folder removed, while it is read.
        with contextlib.suppress(OSError, ValueError):
            notes.append(json.loads(path.read_text(encoding="utf-8")))
    document = run.read_run()
    if stage not in (*SLAB_STAGES, "find_objects", "label_objects"):
        return (round(100 * notes[0]["done"] / notes[0]["total"]) if notes and notes[0]["total"] else 0), 100, "%"
    return sum(note["done"] for note in notes), projections_shape(document)[1], "rows"


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text("")
        if unit == "bytes":
            text = f"{task.completed / 1e6:.0f}/{task.total / 1e6:.0f} MB"
        elif unit == "%":
            text = f"{task.completed:.0f} %"
        else:
            text = f"{task.completed:.0f}/{task.total:.0f} {unit}"
        return Text(text)


class _Throughput(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        if speed is None or unit == "%":
            return Text("")
        return Text(f"{speed / 1e6:.0f} MB/s" if unit == "bytes" else f"{speed:.1f} {unit}/s")


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text("" if elapsed is None else f"{elapsed:.1f} s", justify="right")


class _Bars:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=28),
            _Amount(),
            _Throughput(),
            _Seconds(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def open(self) -> None:
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()

    def start(self, state: str) -> None:
        self._tasks[state] = self._progress.add_task(state, total=None, unit="")

    def update(self, state: str, done: int, total: int, unit: str) -> None:
        self._progress.update(self._tasks[state], completed=done, total=total, unit=unit)

    def finish(self, state: str, status: str) -> None:
        task = self._tasks[state]
        if status == "SUCCEEDED":
            total = self._progress.tasks[task].total or 1
            self._progress.update(task, completed=total, total=total)
        else:
            self._progress.update(task, description=f"[red]{state} {status.lower()}[/red]")
            self._progress.stop_task(task)


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = self._told = time.monotonic()

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def start(self, state: str) -> None:
        self._started = self._told = time.monotonic()
        self._say(f"{state} started")

    def update(self, state: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_INTERVAL_S or not done:
            return
        self._told = now
        elapsed = now - self._started
        left = elapsed * (total - done) / done
        self._say(f"{state} {done}/{total} {unit}, {elapsed:.0f} s, about {left:.0f} s left")

    def finish(self, state: str, status: str) -> None:
        self._say(f"{state} {status.lower()} after {time.monotonic() - self._started:.1f} s")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
