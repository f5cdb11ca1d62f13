"""What is known of every local run: its states, events and end, in one SQLite file.

What a run makes is in its run directory; nothing there depends on this file.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from tomopipe.functions.errors import InputError

from .actions import ActionOutcome, JsonObject, Progress, RunObserver, explain, utc_now
from .database import DatabaseUnavailable, transaction

RUN_STATUSES = ("ACTIVE", "SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED")
"""INTERRUPTED is never written: it is what an ACTIVE run shows whose process on this machine is gone."""

_PROGRESS_INTERVAL_S = 0.5

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    tags TEXT NOT NULL,
    scan TEXT NOT NULL,
    input TEXT NOT NULL,
    definition_digest TEXT NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    host TEXT NOT NULL,
    process INTEGER NOT NULL,
    process_started REAL NOT NULL,
    run_directory TEXT,
    recipe_id TEXT
);
CREATE TABLE IF NOT EXISTS states (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    started TEXT NOT NULL,
    finished TEXT,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    unit TEXT,
    details TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS states_of_run ON states (run_id);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    time TEXT NOT NULL,
    code TEXT NOT NULL,
    description TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_run ON events (run_id);
"""

_LATEST_VISIT = "number = (SELECT max(number) FROM states WHERE run_id = ? AND name = ?)"


@dataclass(frozen=True)
class RunRecord:
    """A run. Times are UTC, ISO 8601; `status` is one of `RUN_STATUSES`; `process_started` is in seconds of the epoch."""

    run_id: str
    label: str
    tags: tuple[str, ...]
    scan: str
    input: JsonObject
    definition_digest: str
    status: str
    error: str | None
    started: str
    finished: str | None
    host: str
    process: int
    process_started: float
    run_directory: str | None
    recipe_id: str | None


@dataclass(frozen=True)
class StateRecord:
    """A state that a run entered: `done` of `total` tasks or bytes (`unit`), and its output or error in `details`."""

    name: str
    type: str
    status: str
    started: str
    finished: str | None
    done: int
    total: int
    unit: str | None
    details: JsonObject


@dataclass(frozen=True)
class EventRecord:
    """An entry of a run's log, as the Flows service writes them."""

    time: str
    code: str
    description: str
    details: JsonObject


class RunStore:
    """The runs of this machine. Any number of processes may read and write; one that is killed loses nothing written.

    Parameters
    ----------
    path : Path
        The SQLite file, on a local disk (write-ahead logging does not work over NFS). Made at the first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def create_run(
        self,
        *,
        label: str,
        scan: str,
        input: JsonObject,
        definition_digest: str,
        tags: Sequence[str] = (),
        run_id: str | None = None,
    ) -> str:
        """Record a run that this process is about to start; its id, a new one where none is given.

        Raises
        ------
        InputError
            There is a run of the id that was given.
        """
        given, run_id = run_id is not None, run_id or str(uuid.uuid4())
        with self._transaction() as database:
            if given and database.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
                raise InputError(f"run {run_id}: was started before; see: tomopipe status {run_id[:8]}")
            database.execute(
                "INSERT INTO runs (run_id, label, tags, scan, input, definition_digest, status, started,"
                " host, process, process_started) VALUES (?, ?, ?, ?, ?, ?, 'ACTIVE', ?, ?, ?, ?)",
                (
                    run_id,
                    label,
                    json.dumps(list(tags)),
                    scan,
                    json.dumps(input),
                    definition_digest,
                    utc_now(),
                    socket.gethostname(),
                    os.getpid(),
                    psutil.Process().create_time(),
                ),
            )
        return run_id

    def observer(self, run_id: str) -> RunObserver:
        """Observer that records a run while `run_flow` runs it, to its end."""
        return _Recorder(self, run_id)

    def state_started(self, run_id: str, name: str, state_type: str) -> None:
        """Record that a state was entered."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO states (run_id, name, type, status, started) VALUES (?, ?, ?, 'ACTIVE', ?)",
                (run_id, name, state_type, utc_now()),
            )

    def state_progress(self, run_id: str, name: str, progress: Progress) -> None:
        """Record how far a state is."""
        with self._transaction() as database:
            database.execute(
                f"UPDATE states SET done = ?, total = ?, unit = ? WHERE {_LATEST_VISIT}",
                (progress.done, progress.total, progress.unit, run_id, name),
            )

    def state_finished(self, run_id: str, name: str, status: str, details: JsonObject) -> None:
        """Record that a state was left."""
        with self._transaction() as database:
            database.execute(
                f"UPDATE states SET status = ?, finished = ?, details = ? WHERE {_LATEST_VISIT}",
                (status, utc_now(), json.dumps(details), run_id, name),
            )

    def event(self, run_id: str, code: str, description: str, details: JsonObject) -> None:
        """Add an entry to a run's log."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO events (run_id, time, code, description, details) VALUES (?, ?, ?, ?, ?)",
                (run_id, utc_now(), code, description, json.dumps(details)),
            )

    def set_run_directory(self, run_id: str, run_directory: Path, recipe_id: str) -> None:
        """Record where a run's results are and which recipe made them."""
        with self._transaction() as database:
            database.execute(
                "UPDATE runs SET run_directory = ?, recipe_id = ? WHERE run_id = ?",
                (str(run_directory), recipe_id, run_id),
            )

    def finish(self, run_id: str, status: str, error: str | None = None) -> None:
        """Record how a run ended, and that no state of it is active any more."""
        with self._transaction() as database:
            now = utc_now()
            database.execute(
                "UPDATE runs SET status = ?, error = ?, finished = ? WHERE run_id = ?", (status, error, now, run_id)
            )
            database.execute(
                "UPDATE states SET status = ?, finished = ? WHERE run_id = ? AND status = 'ACTIVE'",
                (status, now, run_id),
            )

    def list_runs(self, limit: int = 20, *, status: str | None = None, scan: str | None = None) -> list[RunRecord]:
        """The latest runs, newest first; of one status or scan where asked.

        Raises
        ------
        InputError
            If `status` is not one of `RUN_STATUSES`.
        """
        if status is not None and status not in RUN_STATUSES:
            raise InputError(f"status: {status!r} is not one of {', '.join(RUN_STATUSES)}")
        stored = "ACTIVE" if status == "INTERRUPTED" else status
        with self._transaction(write=False) as database:
            rows = database.execute(
                "SELECT * FROM runs WHERE (? IS NULL OR status = ?) AND (? IS NULL OR scan = ?) ORDER BY number DESC",
                (stored, stored, scan, scan),
            ).fetchall()
        runs = (_run_record(row) for row in rows)
        return [run for run in runs if status is None or run.status == status][:limit]

    def get_run(self, run_id: str) -> RunRecord:
        """A run by its id or the beginning of it.

        Raises
        ------
        InputError
            If no run begins so, or several do.
        """
        with self._transaction(write=False) as database:
            rows = database.execute(
                "SELECT * FROM runs WHERE substr(run_id, 1, ?) = ? ORDER BY number DESC LIMIT 5",
                (len(run_id), run_id.lower()),
            ).fetchall()
        if not rows or not run_id:
            raise InputError(f"run {run_id!r}: there is no such run; `tomopipe runs` lists them")
        if len(rows) > 1:
            candidates = ", ".join(row["run_id"] for row in rows)
            raise InputError(f"run {run_id!r}: several runs begin so: {candidates}; give more of the id")
        return _run_record(rows[0])

    def find_run(self, run_id: str) -> RunRecord | None:
        """The run of a whole id; None where there is none."""
        with self._transaction(write=False) as database:
            row = database.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else _run_record(row)

    def states(self, run_id: str) -> list[StateRecord]:
        """The states that a run entered, in order; those that an interrupted run left behind are INTERRUPTED."""
        run = self.get_run(run_id)
        with self._transaction(write=False) as database:
            rows = database.execute("SELECT * FROM states WHERE run_id = ? ORDER BY number", (run.run_id,)).fetchall()
        return [_state_record(row, run.status) for row in rows]

    def events(self, run_id: str) -> list[EventRecord]:
        """The log of a run, in order."""
        run = self.get_run(run_id)
        with self._transaction(write=False) as database:
            rows = database.execute("SELECT * FROM events WHERE run_id = ? ORDER BY number", (run.run_id,)).fetchall()
        return [EventRecord(row["time"], row["code"], row["description"], json.loads(row["details"])) for row in rows]

    def _transaction(self, *, write: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, write=write)


class _Recorder(RunObserver):
    """Writes what it hears into the store; progress at most twice a second, and its end always.

    A store that cannot be used for a while loses entries of the log and ends no run: the results do not depend on it.
    """

    def __init__(self, store: RunStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._last_progress = float("-inf")

    def event(self, code: str, description: str, details: JsonObject) -> None:
        with _losing_what_cannot_be_written():
            self._store.event(self._run_id, code, description, details)

    def state_started(self, state: str, state_type: str) -> None:
        with _losing_what_cannot_be_written():
            self._store.state_started(self._run_id, state, state_type)

    def state_finished(self, state: str, status: ActionOutcome | Literal["CANCELLED"], details: JsonObject) -> None:
        with _losing_what_cannot_be_written():
            self._store.state_finished(self._run_id, state, status, details)

    def progress(self, state: str, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done >= progress.total or now - self._last_progress >= _PROGRESS_INTERVAL_S:
            self._last_progress = now
            with _losing_what_cannot_be_written():
                self._store.state_progress(self._run_id, state, progress)

    def flow_finished(self, status: str, error: str | None, cause: Any) -> None:
        with _losing_what_cannot_be_written():
            self._store.finish(self._run_id, status, explain(error, cause) if error else None)


@contextmanager
def _losing_what_cannot_be_written() -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailable as error:
        logging.getLogger(__name__).warning("an entry of the run's log is lost: %s", error)


def _run_record(row: sqlite3.Row) -> RunRecord:
    record = RunRecord(
        run_id=row["run_id"],
        label=row["label"],
        tags=tuple(json.loads(row["tags"])),
        scan=row["scan"],
        input=json.loads(row["input"]),
        definition_digest=row["definition_digest"],
        status=row["status"],
        error=row["error"],
        started=row["started"],
        finished=row["finished"],
        host=row["host"],
        process=row["process"],
        process_started=row["process_started"],
        run_directory=row["run_directory"],
        recipe_id=row["recipe_id"],
    )
    if record.status == "ACTIVE" and record.host == socket.gethostname() and not _lives(row):
        return replace(record, status="INTERRUPTED")
    return record


def _lives(row: sqlite3.Row) -> bool:
    """Whether the very process that started the run is alive; its number may have gone to another one."""
    try:
        process = psutil.Process(row["process"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - row["process_started"]) < 1.0
    except psutil.Error:
        return False


def _state_record(row: sqlite3.Row, run_status: str) -> StateRecord:
    abandoned = row["status"] == "ACTIVE" and run_status != "ACTIVE"
    return StateRecord(
        name=row["name"],
        type=row["type"],
        status=run_status if abandoned else row["status"],
        started=row["started"],
        finished=row["finished"],
        done=row["done"],
        total=row["total"],
        unit=row["unit"],
        details=json.loads(row["details"]),
    )
