"""What this machine knows of the runs that it started at a facility: found without a network, by id or scan.

The Flows service is the record; this file only says where to ask, and what the answer was last time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection, Row
from typing import Any

from tomopipe.functions.errors import InputError
from tomopipe.functions.locking import lock

from .local.actions import utc_now
from .local.database import transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS submissions (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    deployment TEXT NOT NULL,
    source TEXT NOT NULL,
    flow_id TEXT NOT NULL,
    scan_id TEXT NOT NULL,
    label TEXT NOT NULL,
    request TEXT,
    input TEXT,
    status TEXT NOT NULL,
    error TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    run_directory TEXT,
    asked TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS submissions_of_request ON submissions (flow_id, request);
"""
# A table of its own, made where it is missing, because the files of earlier versions lack it.
_TAGS = "CREATE TABLE IF NOT EXISTS submission_tags (run_id TEXT PRIMARY KEY, tags TEXT NOT NULL)"
_ROWS = (
    "SELECT *, (SELECT tags FROM submission_tags WHERE submission_tags.run_id = submissions.run_id) AS tags"
    " FROM submissions"
)


@dataclass(frozen=True)
class Submission:
    """A service run as it was when the service was last asked.

    Parameters
    ----------
    run_id, deployment, flow_id, scan_id, label : str
    source : str
        Name or file from which the deployment is loaded.
    request : str or None
        Digest of what was asked for, as in the run's tag.
    input : dict or None
        The flow's input, `{"input": {...}}`.
    status : str
        ACTIVE, INACTIVE, SUCCEEDED, FAILED or CANCELLED; GONE where the service knew it no more.
    error, finished, run_directory : str or None
    started, asked : str
        UTC, ISO 8601: when it was started, and when the service last said how it stands.
    tags : tuple of str
        Empty where they were not written down.
    """

    run_id: str
    deployment: str
    source: str
    flow_id: str
    scan_id: str
    label: str
    request: str | None
    input: dict[str, Any] | None
    status: str
    error: str | None
    started: str
    finished: str | None
    run_directory: str | None
    asked: str
    tags: tuple[str, ...] = ()


class SubmissionStore:
    """The service runs that this user started or looked at from this machine.

    Parameters
    ----------
    path : Path
        The SQLite file. Made at the first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def record(self, run: Mapping[str, Any]) -> None:
        """Add a run, or say anew how it stands; what `run` does not know (None) is kept as it was.

        Parameters
        ----------
        run : mapping
            The fields of `Submission` but `asked`, which is now.
        """
        values = {
            **run,
            "input": None if run["input"] is None else json.dumps(run["input"]),
            "asked": utc_now(),
        }
        columns = [name for name in Submission.__dataclass_fields__ if name != "tags"]
        changing = ("request", "input", "error", "finished", "run_directory")
        kept = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in changing)
        with self._transaction() as database:
            database.execute(
                f"INSERT INTO submissions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
                f" ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, asked = excluded.asked, {kept}",
                [values[name] for name in columns],
            )
            if run.get("tags"):
                database.execute(
                    "INSERT INTO submission_tags (run_id, tags) VALUES (?, ?)"
                    " ON CONFLICT (run_id) DO UPDATE SET tags = excluded.tags",
                    (run["run_id"], json.dumps(list(run["tags"]))),
                )

    def list_runs(self, limit: int = 1_000_000, *, deployment: str | None = None) -> list[Submission]:
        """The latest runs, newest first; of one deployment where asked."""
        with self._transaction(write=False) as database:
            rows = database.execute(
                f"{_ROWS} WHERE (? IS NULL OR deployment = ?) ORDER BY started DESC LIMIT ?",
                (deployment, deployment, limit),
            ).fetchall()
        return [_submission(row) for row in rows]

    def of_request(self, flow_id: str, request: str) -> list[Submission]:
        """Runs of one request that had not ended when the service was last asked, newest first."""
        with self._transaction(write=False) as database:
            rows = database.execute(
                f"{_ROWS} WHERE flow_id = ? AND request = ? AND status IN ('ACTIVE', 'INACTIVE') ORDER BY started DESC",
                (flow_id, request),
            ).fetchall()
        return [_submission(row) for row in rows]

    def find(self, name: str) -> Submission | None:
        """The run whose id begins so, else the latest of that scan id; None where there is none.

        Raises
        ------
        InputError
            If several run ids begin so.
        """
        with self._transaction(write=False) as database:
            rows = database.execute(f"{_ROWS} WHERE scan_id = ? ORDER BY started DESC LIMIT 1", (name,)).fetchall()
            if not rows and name:
                rows = database.execute(
                    f"{_ROWS} WHERE substr(run_id, 1, ?) = ? ORDER BY started DESC LIMIT 5",
                    (len(name), name.lower()),
                ).fetchall()
        if len(rows) > 1:
            candidates = ", ".join(row["run_id"] for row in rows)
            raise InputError(f"run {name!r}: several runs begin so: {candidates}; give more of the id")
        return _submission(rows[0]) if rows else None

    def latest_of_scan(self, flow_id: str, scan_id: str) -> Submission | None:
        """The latest run of a scan with one flow."""
        with self._transaction(write=False) as database:
            row = database.execute(
                f"{_ROWS} WHERE flow_id = ? AND scan_id = ? ORDER BY started DESC LIMIT 1",
                (flow_id, scan_id),
            ).fetchone()
        return _submission(row) if row else None

    def note_gone(self, run_id: str) -> None:
        """Write down that the service does not know a run any more; one whose end is known stays as it is."""
        with self._transaction() as database:
            database.execute(
                "UPDATE submissions SET status = 'GONE', asked = ? WHERE run_id = ?"
                " AND status IN ('ACTIVE', 'INACTIVE', 'GONE')",
                (utc_now(), run_id),
            )

    @contextlib.contextmanager
    def request_lock(self, request: str) -> Iterator[None]:
        """Keeps another process of this machine from submitting the same request at the same time."""
        guard = self.path.parent / "locks" / f"{request}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock(guard))
            except OSError as error:
                raise InputError(
                    f"{guard}: cannot be written ({error.strerror}); set TOMOPIPE_HOME to a folder that can"
                ) from error
            yield

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[Connection]:
        with transaction(self.path, _SCHEMA, write=write) as database:
            database.execute(_TAGS)
            yield database


def submission_store() -> SubmissionStore:
    """The service runs that this user knows on this machine."""
    from .local.home import home

    return SubmissionStore(home() / "submissions.sqlite")


def _submission(row: Row) -> Submission:
    values = {name: row[name] for name in Submission.__dataclass_fields__}
    body, tags = (None if row[name] is None else json.loads(row[name]) for name in ("input", "tags"))
    return Submission(**{**values, "input": body, "tags": tuple(tags or ())})
