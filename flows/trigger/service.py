"""The trigger as a process: sources, the one who looks at files, the one who submits, and whoever watches over them.

Each works in a thread of its own; what one of them meets stops none of the others.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import TomopipeError

from .backends import Backends
from .checker import Checker, observe_now
from .config import TriggerConfig, not_before_s
from .ledger import Ledger, file_mark
from .monitoring import Metrics, tell_systemd, write_health
from .notify import Notifier
from .observation import Observation, Source
from .submitter import Submitter, Targets

_log = logging.getLogger(__name__)

_TICK_S = 0.5
_STUCK_AFTER_S = 300.0
_PAUSE_AFTER_FAULT_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_STOP_S = 30.0


class Trigger:
    """Everything of `tomopipe watch`.

    Parameters
    ----------
    config : TriggerConfig
    sources : sequence of Source, optional
        By default what is configured.
    targets : Targets, optional
        By default the back ends that the rules name.
    """

    def __init__(
        self, config: TriggerConfig, sources: Sequence[Source] | None = None, targets: Targets | None = None
    ) -> None:
        self.config = config
        self.ledger = Ledger(config.ledger_path())
        self._first_start = self.ledger.created_at()
        self.people = Notifier(config.notify)
        self._own_targets = Backends(config.local, self.ledger.path.parent / "runs", config.submitter.settle_s)
        self.submitter = Submitter(
            self.ledger, config.rules, targets or self._own_targets, config.submitter, self.people
        )
        self.checker = Checker(self.ledger, config, self.people)
        self.sources = make_sources(config, self.ledger, self._first_start) if sources is None else list(sources)
        self._observations: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._workers = [
            _Worker("looks at files", self.checker.step, self.people, self._stop),
            _Worker("submits", self.submitter.step, self.people, self._stop),
        ]

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Work until `stop` is called, from a signal handler or another thread.

        Parameters
        ----------
        ready : callable, optional
            Called once everything has started.

        Raises
        ------
        InputError
            Something that is configured cannot be had: an extra that is not installed, a port that is taken.
        """
        with self.ledger.held_open():
            self._run(ready)

    def _run(self, ready: Callable[[], None] | None) -> None:
        port = self.config.monitoring.metrics_port
        metrics = None if port is None else Metrics(port, self.ledger, self.health)
        started: list[Source] = []
        try:
            self.people.start()
            for source in self.sources:
                source.start(self._reporter(source.name))
                started.append(source)
            for worker in self._workers:
                worker.start()
            _log.info("watching %s; ledger %s", ", ".join(s.name for s in self.sources) or "nothing", self.ledger.path)
            tell_systemd("READY=1")
            if ready is not None:
                ready()
            self._watch_over()
        finally:
            tell_systemd("STOPPING=1")
            self._stop.set()
            for source in started:
                source.stop()
            for worker in self._workers:
                worker.join()
            if metrics is not None:
                metrics.close()
            self.people.stop()
            self._own_targets.close()
            self._write_health()

    def stop(self) -> None:
        """End `run` soon: a submission that is under way is brought to its end."""
        self._stop.set()

    def report(self, observation: Observation) -> None:
        """Write down what a source saw. When it has returned, that is on disk.

        Raises
        ------
        TomopipeError
            It cannot be written now.
        """
        what = observe_now(self.ledger, observation)
        with self._counting:
            self._observations[what] += 1
        if what == "late abort":
            self.people.tell(
                f"abort of {observation.path}",
                f"{observation.path}: was aborted ({observation.reason}), and its run was started before that was known; "
                "see: tomopipe watch status",
            )
        elif what in ("new", "changed", "aborted"):
            _log.info("%s: %s says %s%s", observation.path, observation.source, observation.kind,
                      f" ({observation.reason})" if observation.reason else "")  # fmt: skip

    def health(self) -> dict[str, Any]:
        """How everything is, as the health file has it."""
        workers = {worker.name: worker.health() for worker in self._workers}
        sources: dict[str, Any] = {}
        for source in self.sources:
            try:
                sources[source.name] = source.health()
            except Exception as error:  # noqa: BLE001  # logged, shown, and the work goes on
                _log.exception("source %s cannot say how it is", source.name)
                sources[source.name] = {"alive": False, "last_event": None, "problem": str(error)}
        problems = [f"{name}: {part['problem']}" for name, part in (workers | sources).items() if part.get("problem")]
        try:
            counts: dict[str, int] | None = self.ledger.counts()
        except TomopipeError as error:
            counts = None
            problems.append(str(error))
        with self._counting:
            observations = dict(self._observations)
        alive = all(part["alive"] for part in (workers | sources).values())
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "ok": alive and not problems and not self._stop.is_set(),
            "stopped": self._stop.is_set(),
            "problems": problems,
            "workers": workers,
            "sources": sources,
            "targets_in_trouble": self.submitter.gates(),
            "observations": observations,
            "scans": counts,
        }

    def _watch_over(self) -> None:
        next_health = 0.0
        while not self._stop.wait(_TICK_S):
            # A worker that is stuck is not told alive: systemd then starts the service anew, which loses nothing.
            if all(worker.is_moving() for worker in self._workers):
                tell_systemd("WATCHDOG=1")
            if time.monotonic() >= next_health:
                next_health = time.monotonic() + self.config.monitoring.interval_s
                self._write_health()

    def _write_health(self) -> None:
        path = self.config.monitoring.health_file
        if path is not None:
            write_health(path, self.health())

    def _reporter(self, name: str) -> Callable[[Observation], None]:
        def report(observation: Observation) -> None:
            try:
                self.report(observation)
            except TomopipeError as error:
                self.people.tell(f"ledger for {name}", f"what {name} saw cannot be written down: {error}")
                raise
            self.people.settled(f"ledger for {name}")

        return report


def make_sources(config: TriggerConfig, ledger: Ledger, first_start: float) -> list[Source]:
    """The sources that are configured.

    Parameters
    ----------
    config : TriggerConfig
    ledger : Ledger
    first_start : float
        When the ledger was first used: older files are left alone, where nothing else is said.

    Raises
    ------
    InputError
        One needs an extra that is not installed.
    """
    sources: list[Source] = []
    if config.sources.files:
        from .file_source import FileSettings, FileSource

        marks = ledger.known_files()

        def is_known(path: Path, size: int, mtime_ns: int) -> bool:
            return file_mark(path, size, mtime_ns) in marks

        for files in config.sources.files:
            settings = FileSettings(
                folders=files.folders,
                patterns=files.patterns,
                ignore=files.ignore,
                recursive=files.recursive,
                method=files.method,
                interval_s=files.interval_s,
                not_before_s=not_before_s(files.not_before, first_start),
                sentinel=(files.finished or config.finished).sentinel,
            )
            sources.append(FileSource(settings, files.name, is_known))
    for epics in config.sources.epics:
        from .epics_source import EpicsSettings, EpicsSource

        sources.append(
            EpicsSource(
                EpicsSettings(
                    prefix=epics.prefix,
                    file_plugin=epics.file_plugin,
                    path_map=epics.path_map,
                    metadata=epics.metadata,
                    settle_s=epics.settle_s,
                    poll_s=epics.poll_s,
                    timeout_s=epics.timeout_s,
                    min_saved_fraction=epics.min_saved_fraction,
                ),
                epics.name,
            )
        )
    if config.sources.drop_folder is not None:
        from .drop_folder import DropFolder

        drop = config.sources.drop_folder
        sources.append(DropFolder(drop.folder, drop.name, drop.interval_s))
    return sources


class _Worker:
    """A thread that makes one step after another; what a step meets is shown, and the next is made a while later."""

    def __init__(self, name: str, step: Callable[[], int], people: Notifier, stop: threading.Event) -> None:
        self.name = name
        self._step, self._people, self._stop = step, people, stop
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._last_step = time.monotonic()
        self._steps = 0
        self._faults = 0
        self._problem: str | None = None

    def start(self) -> None:
        self._last_step = time.monotonic()
        self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout=_STOP_S)

    def is_moving(self) -> bool:
        return self._thread.is_alive() and time.monotonic() - self._last_step < _STUCK_AFTER_S

    def health(self) -> dict[str, Any]:
        quiet = time.monotonic() - self._last_step
        problem = self._problem
        if self._thread.is_alive() and quiet >= _STUCK_AFTER_S:
            problem = f"has been busy with one step for {quiet:.0f} s"
        return {"alive": self.is_moving(), "steps": self._steps, "problem": problem}

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                worked = self._step()
            except Exception as error:  # noqa: BLE001  # logged, shown, and the work goes on
                self._faults += 1
                self._problem = str(error) if isinstance(error, TomopipeError) else f"{type(error).__name__}: {error}"
                if not isinstance(error, TomopipeError):
                    _log.exception("the worker that %s met a fault", self.name)
                self._people.tell(f"worker {self.name}", f"the worker that {self.name}: {self._problem}")
                worked = 0
                pause = _PAUSE_AFTER_FAULT_S[min(self._faults, len(_PAUSE_AFTER_FAULT_S)) - 1]
            else:
                if self._faults:
                    self._people.settled(f"worker {self.name}")
                self._faults, self._problem, pause = 0, None, _TICK_S
            self._steps += 1
            self._last_step = time.monotonic()
            if not worked:
                self._stop.wait(pause)
