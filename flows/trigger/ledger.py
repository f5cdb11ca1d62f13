"""What became of every scan, in one SQLite file: the reason why each is started exactly once.

Every step is one transaction that looks before it writes, so that any number of watchers may share a ledger and any of
them may be killed at any moment. Looking at files and asking services is left to others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.rundir import digest_of

from ..local.database import transaction
from .entry import NO_FILE, STATES, Entry, FileIdentity, Plan, State, entry_of, submission_key
from .observation import Observation
from .owner import is_gone

ABORT_GRACE_S = 10.0
"""A file that changes within this time after its scan was aborted is still that scan: the server adds angles at the end."""
FOREIGN_LEASE_S = 900.0
"""A claim of a process that cannot be looked up (another machine) is taken over after this time."""
_SCAN_ID_MAX = 100

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    real_path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    metadata TEXT NOT NULL,
    request TEXT,
    asked TEXT NOT NULL,
    scan_id TEXT,
    rule TEXT,
    target TEXT,
    recipe TEXT,
    plan TEXT,
    key TEXT UNIQUE,
    earlier TEXT NOT NULL DEFAULT '[]',
    generation INTEGER NOT NULL DEFAULT 0,
    run_id TEXT,
    run_status TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    next_time REAL NOT NULL,
    owner TEXT,
    aborted_at REAL,
    seen_at REAL NOT NULL,
    changed_at REAL NOT NULL,
    ready_at REAL,
    submitted_at REAL,
    ended_at REAL
);
CREATE INDEX IF NOT EXISTS entries_of_path ON entries (real_path, asked);
CREATE INDEX IF NOT EXISTS entries_due ON entries (state, next_time);
CREATE INDEX IF NOT EXISTS entries_of_scan_id ON entries (scan_id);
CREATE UNIQUE INDEX IF NOT EXISTS one_open_entry ON entries (real_path, asked) WHERE state IN ('seen', 'waiting');
CREATE UNIQUE INDEX IF NOT EXISTS one_entry_an_identity ON entries (real_path, size, mtime_ns)
    WHERE asked = '' AND state IN ('ready', 'submitting', 'submitted', 'done', 'failed');
"""

_OPEN = "state IN ('seen', 'waiting')"
_TAKEN = "state IN ('ready', 'submitting', 'submitted', 'done', 'failed')"
_ACTIVE = "state IN ('submitting', 'submitted')"

What = Literal["new", "known", "changed", "gone", "aborted", "late abort"]


@dataclass(frozen=True)
class Noted:
    """What an observation came to.

    Parameters
    ----------
    what : str
        `new`: there is an entry now. `known`: there was one already. `changed`: the file of an entry that was ready is
        being written again. `gone`: there is no file. `aborted`: the entry is not started. `late abort`: its run was
        started before.
    number : int or None
        Of the entry.
    """

    what: What
    number: int | None


class ClaimLost(TomopipeError):
    """An entry is not this submitter's any more; who has it now finds its run by its key."""


class ScanIdTaken(InputError):
    """The scan id that a person asks for is another scan's."""


class Ledger:
    """The scans of a trigger. Any number of processes of one machine may read and write.

    Parameters
    ----------
    path : Path
        The SQLite file, on a local disk. Made at the first use.
    clock : callable
        Gives seconds of the epoch.
    owner_is_gone : callable
        Whether the process of an owner has ended; None where that cannot be told.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        owner_is_gone: Callable[[str | None], bool | None] = is_gone,
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._is_gone = owner_is_gone

    def created_at(self) -> float:
        """When the ledger was first used."""
        with self._transaction() as database:
            row = database.execute("SELECT created FROM ledger").fetchone()
            if row is None:
                database.execute("INSERT INTO ledger VALUES (?)", (self._clock(),))
                row = database.execute("SELECT created FROM ledger").fetchone()
            return float(row["created"])

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        """Keep the file open meanwhile: else SQLite tidies up after each use, which takes five times as long."""
        self.created_at()
        with contextlib.closing(sqlite3.connect(self.path, check_same_thread=False)) as connection:
            connection.execute("SELECT count(*) FROM ledger").fetchone()
            yield

    # What sources say

    def observe(self, observation: Observation, found: FileIdentity | None) -> Noted:
        """Write down what a source saw.

        Parameters
        ----------
        observation : Observation
        found : FileIdentity or None
            The file as it is now; None where there is none.
        """
        return self.observe_many([(observation, found)])[0]

    def observe_many(self, seen: Iterable[tuple[Observation, FileIdentity | None]]) -> list[Noted]:
        """`observe` of several in one transaction: all are written, or none."""
        prepared = [(observation, found, os.path.realpath(observation.path)) for observation, found in seen]
        with self._transaction() as database:
            return [self._observe(database, *one) for one in prepared]

    def _observe(
        self, database: sqlite3.Connection, observation: Observation, found: FileIdentity | None, real_path: str
    ) -> Noted:
        now = self._clock()
        if observation.kind == "aborted":
            return self._abort(database, observation, found, real_path, now)
        asked = "" if observation.request is None else digest_of(dict(observation.request))[:16]
        same = database.execute(
            "SELECT * FROM entries WHERE real_path = ? AND asked = ? ORDER BY number DESC", (real_path, asked)
        ).fetchall()
        for row in same:
            if row["state"] in ("seen", "waiting"):
                _merge(database, row, observation, now)
                return Noted("known", row["number"])
            if row["state"] == "ready":
                if found is None or (row["size"], row["mtime_ns"]) == (found.size, found.mtime_ns):
                    return Noted("known", row["number"])
                _update(database, row["number"], now, state="waiting", next_time=now,
                        reason="the file was written to again before it was started")  # fmt: skip
                return Noted("changed", row["number"])
        if observation.request is None:
            known = _known_automatic(database, same, observation, found, now)
            if known is not None:
                return Noted("known", known)
            if found is None and observation.kind == "candidate":
                return Noted("gone", None)
        else:
            # The same request while its run is under way, or one that was taken from a drop folder twice.
            once = "id" in observation.request
            for row in same:
                if once or row["state"] in ("submitting", "submitted"):
                    return Noted("known", row["number"])
        return Noted("new", _insert(database, observation, found or NO_FILE, real_path, asked, now))

    def _abort(
        self,
        database: sqlite3.Connection,
        observation: Observation,
        found: FileIdentity | None,
        real_path: str,
        now: float,
    ) -> Noted:
        reason = observation.reason or "the instrument says that the scan was aborted"
        identity = found or NO_FILE
        rows = database.execute(
            "SELECT * FROM entries WHERE real_path = ? AND asked = '' ORDER BY number DESC", (real_path,)
        ).fetchall()
        for row in rows:
            if row["state"] in ("seen", "waiting", "ready"):
                # An entry that was never identified takes what the abort left; a ready one that was replaced goes too.
                _update(database, row["number"], now, state="ignored", reason=reason, aborted_at=now, ended_at=now,
                        size=identity.size, mtime_ns=identity.mtime_ns)  # fmt: skip
                return Noted("aborted", row["number"])
            if (row["size"], row["mtime_ns"]) == (identity.size, identity.mtime_ns):
                if row["state"] in ("submitting", "submitted", "done", "failed"):
                    _update(database, row["number"], now, reason=f"started before this was known: {reason}")
                    return Noted("late abort", row["number"])
                _update(database, row["number"], now, reason=reason, aborted_at=now)
                return Noted("aborted", row["number"])
        number = _insert(database, observation, identity, real_path, "", now)
        _update(database, number, now, state="ignored", reason=reason, aborted_at=now, ended_at=now)
        return Noted("aborted", number)

    # Whether scans are finished

    def open_entries(self, limit: int = 100) -> list[Entry]:
        """Scans of which it is not known yet whether they are finished, and that are due to be looked at."""
        return self._select(f"{_OPEN} AND next_time <= ? ORDER BY next_time, number LIMIT ?", (self._clock(), limit))

    def not_yet(self, number: int, found: FileIdentity | None, reason: str, next_time: float) -> bool:
        """Note that a scan is not finished, and when to look again; whether its entry is still open."""
        identity = found or NO_FILE
        with self._transaction() as database:
            row = _open_row(database, number)
            if row is not None:
                _update(database, number, self._clock(), state="waiting", reason=reason, next_time=next_time,
                        size=identity.size, mtime_ns=identity.mtime_ns)  # fmt: skip
            return row is not None

    def set_ready(
        self, number: int, found: FileIdentity, metadata: Mapping[str, Any], sha256: str | None = None
    ) -> State | None:
        """Note that a scan is finished, as which file; the state that it is in now, None where it was not open any more.

        A scan that is known already, by its size and time or by its checksum, is `ignored`.
        """
        now = self._clock()
        with self._transaction() as database:
            row = _open_row(database, number)
            if row is None:
                return None
            values: dict[str, Any] = {"size": found.size, "mtime_ns": found.mtime_ns, "sha256": sha256, "failures": 0}
            twin = _twin(database, row, found, sha256) if row["asked"] == "" else None
            if twin is not None:
                reason = f"is the scan of entry {twin['number']} ({twin['state']})"
                _update(database, number, now, state="ignored", reason=reason, ended_at=now, **values)
                return "ignored"
            merged = {**_finite(metadata), **json.loads(row["metadata"])}
            _update(database, number, now, state="ready", reason=None, ready_at=now, next_time=now,
                    metadata=json.dumps(merged), **values)  # fmt: skip
            return "ready"

    def ignore(self, number: int, reason: str, found: FileIdentity | None = None) -> bool:
        """Note that a scan is given up that was not started, or of which that is not known; whether that was possible."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT * FROM entries WHERE number = ? AND (state IN ('seen', 'waiting', 'ready', 'failed')"
                " OR (state = 'submitting' AND owner IS NULL))",
                (number,),
            ).fetchone()
            if row is None:
                return False
            now = self._clock()
            values = {} if found is None else {"size": found.size, "mtime_ns": found.mtime_ns}
            _update(database, number, now, state="ignored", reason=reason, ended_at=now, **values)
            return True

    # Submitting

    def next_ready(self) -> Entry | None:
        """The scan that is to be claimed next: the one that has been ready the longest, and is not being worked on."""
        found = self._select(
            f"state = 'ready' AND next_time <= ? AND NOT EXISTS (SELECT 1 FROM entries AS other WHERE"
            f" other.real_path = entries.real_path AND other.{_ACTIVE} AND other.size = entries.size"
            " AND other.mtime_ns = entries.mtime_ns) ORDER BY ready_at, number LIMIT 1",
            (self._clock(),),
        )
        return found[0] if found else None

    def active_count(self) -> int:
        """How many runs are under way or being started."""
        with self._transaction(write=False) as database:
            return int(database.execute(f"SELECT count(*) FROM entries WHERE {_ACTIVE}").fetchone()[0])

    def claim(self, number: int, owner: str, plan: Plan, max_active: int) -> Entry | None:
        """Write down the intent to start a scan: from here on it is this owner's, under one key.

        Parameters
        ----------
        number : int
        owner : str
        plan : Plan
        max_active : int
            Most runs under way, of all watchers.

        Returns
        -------
        Entry or None
            None where another watcher has it, the scan and recipe were started before (it is `ignored` then), or as many
            are under way as may be.

        Raises
        ------
        ScanIdTaken
            The scan id that was asked for is another scan's.
        """
        now = self._clock()
        with self._transaction() as database:
            row = database.execute(
                "SELECT * FROM entries WHERE number = ? AND state = 'ready' AND next_time <= ?", (number, now)
            ).fetchone()
            active = database.execute(f"SELECT count(*) FROM entries WHERE {_ACTIVE}").fetchone()[0]
            if row is None or active >= max_active:
                return None
            others = database.execute(
                "SELECT * FROM entries WHERE real_path = ? AND size = ? AND mtime_ns = ? AND number != ?",
                (row["real_path"], row["size"], row["mtime_ns"], number),
            ).fetchall()
            if any(other["state"] in ("submitting", "submitted") for other in others):
                # Two runs at a time on the results of one scan would wait for each other, or refuse each other.
                return None
            twin = next((other for other in others if _is_same_run(other, row, plan)), None)
            if twin is not None:
                reason = (
                    f"the same scan and recipe as entry {twin['number']} ({twin['state']}); "
                    "`tomopipe watch retry` starts what failed again, `tomopipe watch add --again` makes another run"
                )
                _update(database, number, now, state="ignored", reason=reason, ended_at=now)
                return None
            key, generation = _free_key(database, row, plan)
            scan_id = _free_scan_id(database, row, plan)
            _update(
                database, number, now, state="submitting", owner=owner, rule=plan.rule, target=plan.target,
                recipe=plan.recipe, plan=json.dumps(dict(plan.body)), key=key, scan_id=scan_id, generation=generation,
                attempts=row["attempts"] + 1, run_id=None, run_status=None,
            )  # fmt: skip
            return _get(database, number)

    def claim_abandoned(self, owner: str, settle_s: Callable[[str], float]) -> Entry | None:
        """Take over a scan whose submission was begun and never ended, because its owner is gone or was not sure.

        Parameters
        ----------
        owner : str
        settle_s : callable
            How long a run of a target may take to be found after it was started: so long after its owner was missed, a
            run that is not found is not there.
        """
        now = self._clock()
        with self._transaction() as database:
            rows = database.execute(
                "SELECT * FROM entries WHERE state = 'submitting' ORDER BY changed_at, number"
            ).fetchall()
            for row in rows:
                next_time = row["next_time"]
                if row["owner"] is not None:
                    # One's own claim is one that an exception left behind: a submitter has no two at a time.
                    gone = row["owner"] == owner or self._is_gone(row["owner"])
                    if not gone and not (gone is None and now - row["changed_at"] > FOREIGN_LEASE_S):
                        continue
                    next_time = now + settle_s(row["target"])
                    _update(database, row["number"], now, owner=None, next_time=next_time)
                if next_time <= now:
                    _update(database, row["number"], now, owner=owner, attempts=row["attempts"] + 1)
                    return _get(database, row["number"])
        return None

    def record_run(self, entry: Entry, run_id: str, key: str | None = None, target: str | None = None) -> None:
        """Write down the run of a claimed scan.

        Parameters
        ----------
        entry : Entry
            As `claim` gave it.
        run_id : str
        key, target : str, optional
            The run's, where it is an earlier one.

        Raises
        ------
        ClaimLost
        """
        now = self._clock()
        self._release(entry, state="submitted", run_id=run_id, run_status="starting", reason=None, failures=0,
                      submitted_at=now, next_time=now, owner=None, key=key or entry.key,
                      target=target or entry.target)  # fmt: skip

    def give_back(self, entry: Entry, reason: str, next_time: float) -> None:
        """Put a claimed scan back of which it is certain that nothing was sent; it is tried again from the rules on."""
        self._release(entry, state="ready", reason=reason, next_time=next_time, failures=entry.failures + 1,
                      owner=None, key=None, plan=None)  # fmt: skip

    def unsure(self, entry: Entry, reason: str, next_time: float) -> None:
        """Keep the intent of a claimed scan of which it is not known whether its run was started."""
        self._release(entry, reason=reason, next_time=next_time, failures=entry.failures + 1, owner=None)

    def refuse(self, entry: Entry, reason: str) -> None:
        """Note that a scan that is ready or claimed cannot be started as it is asked for; nothing was sent."""
        now = self._clock()
        with self._transaction() as database:
            _ready_or_claimed_row(database, entry)
            _update(database, entry.number, now, state="failed", reason=reason, owner=None, key=None, ended_at=now)

    def look_again(self, entry: Entry, reason: str) -> None:
        """Put a scan back that is ready, or claimed with nothing sent, and whose file is not what it was."""
        now = self._clock()
        with self._transaction() as database:
            row = _ready_or_claimed_row(database, entry)
            other = database.execute(
                f"SELECT number FROM entries WHERE real_path = ? AND asked = ? AND {_OPEN}",
                (row["real_path"], row["asked"]),
            ).fetchone()
            values = {"owner": None, "key": None, "plan": None, "scan_id": None}
            if other is None:
                _update(database, entry.number, now, state="waiting", reason=reason, next_time=now, **values)
            else:
                reason = f"{reason}; entry {other['number']} is what is there now"
                _update(database, entry.number, now, state="ignored", reason=reason, ended_at=now, **values)

    def postpone(self, entry: Entry, reason: str, next_time: float) -> None:
        """Leave a scan ready, to be tried later."""
        with self._transaction() as database:
            if _ready_or_claimed_row(database, entry)["state"] == "ready":
                _update(database, entry.number, self._clock(), reason=reason, next_time=next_time)

    def _release(self, entry: Entry, **values: Any) -> None:
        with self._transaction() as database:
            _claimed_row(database, entry)
            _update(database, entry.number, self._clock(), **values)

    # Runs

    def submitted_entries(self, limit: int = 100) -> list[Entry]:
        """Scans whose run is under way and due to be asked for."""
        return self._select("state = 'submitted' AND next_time <= ? ORDER BY next_time LIMIT ?", (self._clock(), limit))

    def run_goes_on(self, entry: Entry, status: str, reason: str | None, next_time: float) -> None:
        """Note how a run stands that has not ended: `starting`, `active` or `inactive`; and when to ask again."""
        self._about_run(entry, run_status=status, reason=reason, next_time=next_time, failures=0)

    def ask_later(self, entry: Entry, next_time: float) -> None:
        """Note that a run could not be asked for."""
        self._about_run(entry, next_time=next_time, failures=entry.failures + 1)

    def run_ended(self, entry: Entry, state: Literal["done", "failed"], status: str, reason: str | None = None) -> None:
        """Note how a run ended."""
        self._about_run(entry, state=state, run_status=status, reason=reason, ended_at=self._clock(), failures=0)

    def start_anew(self, entry: Entry, reason: str, next_time: float) -> None:
        """Have a scan started again whose run is certainly gone: another run, under another key."""
        self._about_run(entry, state="ready", reason=reason, next_time=next_time, run_id=None, run_status=None, plan=None,
                        **_next_key(entry, self._clock()))  # fmt: skip

    def put_back(self, entry: Entry, reason: str, next_time: float) -> None:
        """Have a scan started again of which no run ever came to be: under the same key."""
        self._about_run(entry, state="ready", reason=reason, next_time=next_time, failures=entry.failures + 1,
                        run_id=None, run_status=None, key=None, plan=None, submitted_at=None)  # fmt: skip

    def _about_run(self, entry: Entry, **values: Any) -> None:
        """Change an entry whose run is still the one that was asked for; another watcher may have been faster."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT 1 FROM entries WHERE number = ? AND state = 'submitted' AND key = ?", (entry.number, entry.key)
            ).fetchone()
            if row is not None:
                _update(database, entry.number, self._clock(), **values)

    # What people ask for

    def retry(self, number: int) -> Entry:
        """Have a scan tried again that failed or was ignored.

        Raises
        ------
        InputError
            There is no such entry, or it is in no such state.
        """
        now = self._clock()
        with self._transaction() as database:
            entry = _get(database, number)
            if entry.state not in ("failed", "ignored"):
                raise InputError(
                    f"entry {number} ({entry.path}): is {entry.state}; only what failed or was ignored can be retried"
                )
            other = database.execute(
                f"SELECT number FROM entries WHERE real_path = ? AND asked = (SELECT asked FROM entries WHERE number = ?)"
                f" AND number != ? AND ({_OPEN} OR (size = ? AND mtime_ns = ? AND {_TAKEN}))",
                (entry.real_path, number, number, entry.size, entry.mtime_ns),
            ).fetchone()
            if other is not None:
                raise InputError(
                    f"entry {number} ({entry.path}): entry {other['number']} is this scan; look at that one"
                )
            # A person's word: finished, even where the instrument said otherwise. The file is checked all the same.
            _update(database, number, now, state="waiting", kind="finished", reason="retried", next_time=now,
                    aborted_at=None, ended_at=None, failures=0, plan=None, run_id=None, run_status=None,
                    **_next_key(entry, now))  # fmt: skip
            return _get(database, number)

    def get(self, number: int) -> Entry:
        """An entry by its number; raises InputError where there is none."""
        with self._transaction(write=False) as database:
            return _get(database, number)

    def of_path(self, path: Path | str) -> list[Entry]:
        """Entries of a file, newest first."""
        return self._select("real_path = ? ORDER BY number DESC", (os.path.realpath(path),))

    def list_entries(self, limit: int = 100, states: Iterable[str] = ()) -> list[Entry]:
        """The entries that changed last, newest first; of some states where asked."""
        wanted = tuple(states)
        unknown = [state for state in wanted if state not in STATES]
        if unknown:
            raise InputError(f"state {unknown[0]!r}: is not one of {', '.join(STATES)}")
        where = f"state IN ({', '.join('?' * len(wanted))})" if wanted else "1"
        return self._select(f"{where} ORDER BY changed_at DESC, number DESC LIMIT ?", (*wanted, limit))

    def known_files(self) -> set[int]:
        """Marks of all files that sources have reported, as `file_mark` gives them: few bytes each."""
        with self._transaction(write=False) as database:
            rows = database.execute("SELECT path, size, mtime_ns FROM entries WHERE asked = ''")
            return {file_mark(Path(row["path"]), row["size"], row["mtime_ns"]) for row in rows}

    def recently_ignored(self, since: float, limit: int = 1000) -> list[Entry]:
        """Scans that were found bad lately; one that is written to again is another file."""
        return self._select(
            "state = 'ignored' AND asked = '' AND ended_at >= ? AND number = (SELECT max(number) FROM entries AS other"
            " WHERE other.real_path = entries.real_path) ORDER BY ended_at DESC LIMIT ?",
            (since, limit),
        )

    def counts(self) -> dict[str, int]:
        """How many entries there are of each state."""
        with self._transaction(write=False) as database:
            rows = database.execute("SELECT state, count(*) AS found FROM entries GROUP BY state").fetchall()
        found = {row["state"]: row["found"] for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    def oldest(self, state: State) -> float | None:
        """When the entry came into this state that has been there the longest."""
        with self._transaction(write=False) as database:
            found = database.execute("SELECT min(changed_at) FROM entries WHERE state = ?", (state,)).fetchone()[0]
        return None if found is None else float(found)

    def _select(self, condition: str, values: tuple[Any, ...]) -> list[Entry]:
        with self._transaction(write=False) as database:
            rows = database.execute(f"SELECT * FROM entries WHERE {condition}", values).fetchall()
        return [entry_of(row) for row in rows]

    def _transaction(self, *, write: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, write=write)


def file_mark(path: Path, size: int, mtime_ns: int) -> int:
    """A number that stands for a file of one size and time, in this process."""
    return hash((str(path), size, mtime_ns))


def _known_automatic(
    database: sqlite3.Connection,
    same: list[sqlite3.Row],
    observation: Observation,
    found: FileIdentity | None,
    now: float,
) -> int | None:
    """Number of the entry that a file of a source is, where there is one. `same` are those of its path, newest first."""
    if found is None:
        # An instrument names a file that cannot be seen yet: the latest entry is not taken for it.
        return None
    for row in same:
        if (row["size"], row["mtime_ns"]) == (found.size, found.mtime_ns):
            if observation.kind == "finished" and row["state"] == "ignored" and row["aborted_at"] is not None:
                # The abort was that of the scan before, whose file this one replaced within the time of grace.
                return None
            return int(row["number"])
    latest = same[0] if same else None
    if latest is None or latest["aborted_at"] is None or latest["state"] != "ignored":
        return None
    if observation.kind == "candidate" and found.mtime_ns / 1e9 <= latest["aborted_at"] + ABORT_GRACE_S:
        _update(database, latest["number"], now, size=found.size, mtime_ns=found.mtime_ns)
        return int(latest["number"])
    return None


def _twin(
    database: sqlite3.Connection, row: sqlite3.Row, found: FileIdentity, sha256: str | None
) -> sqlite3.Row | None:
    """Another entry of a source that is the same scan."""
    twin = database.execute(
        f"SELECT * FROM entries WHERE real_path = ? AND asked = '' AND number != ? AND {_TAKEN}"
        " AND ((size = ? AND mtime_ns = ?) OR (size = ? AND sha256 = ?))",
        (row["real_path"], row["number"], found.size, found.mtime_ns, found.size, sha256),
    ).fetchone()
    if twin is None and row["kind"] == "candidate":
        twin = database.execute(
            "SELECT * FROM entries WHERE real_path = ? AND asked = '' AND number != ? AND size = ? AND mtime_ns = ?"
            " AND state = 'ignored' AND aborted_at IS NOT NULL",
            (row["real_path"], row["number"], found.size, found.mtime_ns),
        ).fetchone()
    found_row: sqlite3.Row | None = twin
    return found_row


def _is_same_run(other: sqlite3.Row, row: sqlite3.Row, plan: Plan) -> bool:
    """Whether another entry of the same file stands for the run that a plan asks for."""
    started = other["state"] in ("submitting", "submitted", "done", "failed") and other["recipe"] == plan.recipe
    return started and not plan.again and row["generation"] == 0


def _free_key(database: sqlite3.Connection, row: sqlite3.Row, plan: Plan) -> tuple[str, int]:
    """Key of the run that a plan asks for, and its generation: one that no other entry has."""
    generation = int(row["generation"])
    while True:
        identity = FileIdentity(row["size"], row["mtime_ns"])
        key = submission_key(row["real_path"], identity, plan.recipe, generation, row["asked"] if plan.again else "")
        taken = database.execute(
            "SELECT 1 FROM entries WHERE real_path = ? AND number != ? AND (key = ? OR instr(earlier, ?) > 0)",
            (row["real_path"], row["number"], key, key),
        ).fetchone()
        if taken is None:
            return key, generation
        generation += 1


def _next_key(entry: Entry, now: float) -> dict[str, Any]:
    """Values of an entry that gets another run: its key joins the earlier ones, which are looked for before anything."""
    if entry.key is None:
        return {"owner": None}
    given_up = now if entry.run_id is None else 0.0
    earlier = [*entry.earlier, [entry.target, entry.key, entry.size, entry.mtime_ns, given_up]]
    return {"owner": None, "key": None, "earlier": json.dumps(earlier), "generation": entry.generation + 1}


def _free_scan_id(database: sqlite3.Connection, row: sqlite3.Row, plan: Plan) -> str:
    """The scan id of a plan, with a suffix where another scan has it, so that the results of that one stay."""
    identity = (row["real_path"], row["size"], row["mtime_ns"])

    def is_free(scan_id: str) -> bool:
        rows = database.execute("SELECT * FROM entries WHERE scan_id = ?", (scan_id,)).fetchall()
        return all((other["real_path"], other["size"], other["mtime_ns"]) == identity for other in rows)

    earlier = database.execute(
        "SELECT scan_id FROM entries WHERE real_path = ? AND size = ? AND mtime_ns = ? AND scan_id IS NOT NULL"
        " ORDER BY number",
        identity,
    ).fetchall()
    if is_free(plan.scan_id):
        return plan.scan_id
    if plan.fixed_scan_id:
        raise ScanIdTaken(f"scan id {plan.scan_id}: is that of another scan; ask for another one")
    kept = [known["scan_id"] for known in earlier if _is_suffixed(known["scan_id"], plan.scan_id)]
    if kept:
        return str(kept[0])
    acquired = datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC)
    suffix = f"-{acquired:%Y%m%dT%H%M%S}"
    number = 1
    while True:
        scan_id = f"{plan.scan_id[: _SCAN_ID_MAX - len(suffix)]}{suffix}"
        if is_free(scan_id):
            return scan_id
        number += 1
        suffix = f"-{acquired:%Y%m%dT%H%M%S}-{number}"


def _is_suffixed(scan_id: str, wanted: str) -> bool:
    match = re.fullmatch(r"(.+?)-\d{8}T\d{6}(?:-\d+)?", scan_id)
    return bool(match) and wanted.startswith(str(match and match[1]))


def _insert(
    database: sqlite3.Connection, observation: Observation, found: FileIdentity, real_path: str, asked: str, now: float
) -> int:
    request = None if observation.request is None else json.dumps(dict(observation.request))
    cursor = database.execute(
        "INSERT INTO entries (path, real_path, size, mtime_ns, state, source, kind, reason, metadata, request, asked,"
        " next_time, seen_at, changed_at) VALUES (?, ?, ?, ?, 'seen', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            os.path.abspath(observation.path),  # noqa: PTH100  # keeps links, drops `..`
            real_path, found.size, found.mtime_ns, observation.source, observation.kind, observation.reason,
            json.dumps(_finite(observation.metadata)), request, asked, now, now, now,
        ),
    )  # fmt: skip
    number = cursor.lastrowid
    assert number is not None
    return number


def _merge(database: sqlite3.Connection, row: sqlite3.Row, observation: Observation, now: float) -> None:
    """Add to an open entry what another observation of its file says."""
    metadata = json.dumps({**json.loads(row["metadata"]), **_finite(observation.metadata)})
    says_more = observation.kind == "finished" and row["kind"] == "candidate"
    if says_more or metadata != row["metadata"]:
        values = {"kind": "finished", "source": observation.source, "next_time": now} if says_more else {}
        _update(database, row["number"], now, metadata=metadata, **values)


def _update(database: sqlite3.Connection, number: int, now: float, **values: Any) -> None:
    changes = ", ".join(f"{name} = ?" for name in (*values, "changed_at"))
    database.execute(f"UPDATE entries SET {changes} WHERE number = ?", (*values.values(), now, number))


def _get(database: sqlite3.Connection, number: int) -> Entry:
    row = database.execute("SELECT * FROM entries WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise InputError(f"entry {number}: there is none of this number; `tomopipe watch status` lists them")
    return entry_of(row)


def _open_row(database: sqlite3.Connection, number: int) -> sqlite3.Row | None:
    row: sqlite3.Row | None = database.execute(
        f"SELECT * FROM entries WHERE number = ? AND {_OPEN}", (number,)
    ).fetchone()
    return row


def _claimed_row(database: sqlite3.Connection, entry: Entry) -> sqlite3.Row:
    row: sqlite3.Row | None = database.execute(
        "SELECT * FROM entries WHERE number = ? AND state = 'submitting' AND owner = ?", (entry.number, entry.owner)
    ).fetchone()
    if row is None:
        raise ClaimLost(f"entry {entry.number} ({entry.path}): another watcher has taken it over")
    return row


def _ready_or_claimed_row(database: sqlite3.Connection, entry: Entry) -> sqlite3.Row:
    """The row of an entry that is as it was read: ready, or claimed by the one who asks."""
    if entry.state == "submitting":
        return _claimed_row(database, entry)
    row: sqlite3.Row | None = database.execute(
        "SELECT * FROM entries WHERE number = ? AND state = 'ready'", (entry.number,)
    ).fetchone()
    if row is None:
        raise ClaimLost(f"entry {entry.number} ({entry.path}): another watcher has taken it")
    return row


def _finite(metadata: Mapping[str, Any]) -> dict[str, str | float]:
    """What JSON and the rules can hold."""
    kept: dict[str, str | float] = {}
    for name, value in metadata.items():
        if isinstance(value, str):
            kept[str(name)] = value[:1000]
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[str(name)] = value
    return kept
