"""What the ledger holds of a scan: its identity, its state, and the key under which its run can be found again.

Keeping it is left to `ledger`.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Row
from typing import Any, Literal, get_args

from tomopipe.functions.rundir import digest_of

State = Literal["seen", "waiting", "ready", "submitting", "submitted", "done", "failed", "ignored"]
STATES: tuple[State, ...] = get_args(State)
"""In the order in which a scan goes through them; the last three are ends."""

_NAMESPACE = uuid.UUID("3f0c1f5e-8d0b-5a55-9c53-55f04f0a4d10")
_JSON_COLUMNS = ("metadata", "request", "plan", "earlier")


@dataclass(frozen=True)
class FileIdentity:
    """What tells a file from another one of the same name: bytes, and modification time in ns of the epoch."""

    size: int
    mtime_ns: int


NO_FILE = FileIdentity(-1, 0)
"""Stands for a file that is not there."""


@dataclass(frozen=True)
class Plan:
    """What a scan is started with, as the rules say.

    Parameters
    ----------
    rule : str
        Name of the rule that said so.
    target : str
        `local`, or name or file of a deployment.
    scan_id : str
        As wanted; the ledger adds a suffix where another scan has it.
    fixed_scan_id : bool
        Whether a person asked for this very scan id, so that a suffix is no answer.
    body : dict
        `parameters`, `skip`, `visible_to`, `share`, `label`, `tags`: what the back end needs, as JSON.
    again : bool
        Start another run, though there is one of this scan and recipe.
    """

    rule: str
    target: str
    scan_id: str
    fixed_scan_id: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False

    @property
    def recipe(self) -> str:
        """16 hexadecimal digits of what determines the results, and where they are made."""
        return digest_of(self.target, self.body.get("parameters") or {}, sorted(self.body.get("skip") or ()))[:16]


@dataclass(frozen=True)
class Entry:
    """A scan in the ledger. Times are seconds of the epoch.

    Parameters
    ----------
    number : int
    path : str
        As the source named it, absolute.
    real_path : str
        Without links.
    size, mtime_ns : int
        Of the file when it was last looked at; from `ready` on they do not change.
    sha256 : str or None
    state : str
        One of `STATES`.
    source, kind : str
        Who reported it, and how; see `Observation`.
    reason : str or None
        Why it is in this state, for a person.
    metadata : dict
    request : dict or None
        What a person asked for.
    scan_id, rule, target, recipe : str or None
        Known once it was claimed.
    plan : dict or None
        The plan's body.
    key : str or None
        Names the run: its tag is `trigger:<key>`.
    earlier : list of [target, key, size, mtime_ns, time]
        Keys of runs that were given up for another one, and the file of each; the time where it is not known whether
        there is a run, else 0.
    generation : int
        How often it was started anew.
    run_id, run_status : str or None
    attempts : int
        Submissions tried.
    failures : int
        Those that went wrong, since the last that did not.
    next_time : float
        When to look again.
    owner : str or None
        Who is submitting it.
    aborted_at : float or None
    seen_at, changed_at : float
    ready_at, submitted_at, ended_at : float or None
    """

    number: int
    path: str
    real_path: str
    size: int
    mtime_ns: int
    sha256: str | None
    state: State
    source: str
    kind: str
    reason: str | None
    metadata: dict[str, Any]
    request: dict[str, Any] | None
    scan_id: str | None
    rule: str | None
    target: str | None
    recipe: str | None
    plan: dict[str, Any] | None
    key: str | None
    earlier: list[list[Any]]
    generation: int
    run_id: str | None
    run_status: str | None
    attempts: int
    failures: int
    next_time: float
    owner: str | None
    aborted_at: float | None
    seen_at: float
    changed_at: float
    ready_at: float | None
    submitted_at: float | None
    ended_at: float | None

    @property
    def identity(self) -> FileIdentity:
        """Size and time of the file."""
        return FileIdentity(self.size, self.mtime_ns)

    @property
    def earlier_runs(self) -> list[tuple[str, str, float]]:
        """Target and key of the runs of this very file that were given up for another one, and when (0: surely ended)."""
        same = [one for one in self.earlier if (one[2], one[3]) == (self.size, self.mtime_ns)]
        return [(target, key, given_up) for target, key, _, _, given_up in same]

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name


def entry_of(row: Row) -> Entry:
    """The entry that a row of the table holds."""
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    for name in _JSON_COLUMNS:
        values[name] = None if values[name] is None else json.loads(values[name])
    return Entry(**values)


def identify(path: Path | str) -> FileIdentity | None:
    """Identity of the file at a path; None where there is no regular file.

    Raises
    ------
    OSError
        The file system does not answer; that says nothing of the file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  # takes text, of which there are a hundred thousand
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileIdentity(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def submission_key(real_path: str, identity: FileIdentity, recipe: str, generation: int = 0, request: str = "") -> str:
    """The name of the run of a scan and recipe: the same wherever and whenever it is worked out.

    Parameters
    ----------
    real_path : str
    identity : FileIdentity
    recipe : str
    generation : int
        How often the scan was started anew with this recipe because a person, or a lost run, wanted it.
    request : str
        Digest of the request of a person who wants another run of the same.
    """
    text = json.dumps([real_path, identity.size, identity.mtime_ns, recipe, generation, request])
    return str(uuid.uuid5(_NAMESPACE, text))


def run_tag(key: str) -> str:
    """The tag of the run of a key."""
    return f"trigger:{key}"
