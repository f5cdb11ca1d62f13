"""Where runs are made: on this machine, or at a facility; and what is common to both.

When to start which scan is left to `submitter`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tomopipe.functions.errors import InputError, ScanError, TomopipeError
from tomopipe.functions.parameters import validate_model
from tomopipe.functions.rundir import write_json

from .config import LOCAL, LocalConfig
from .entry import Entry, run_tag

if TYPE_CHECKING:
    from ..client import Client, PreparedRun

_log = logging.getLogger(__name__)

RunState = Literal["starting", "active", "inactive", "succeeded", "failed", "interrupted", "never started", "unknown"]
"""`inactive`: a person must do something. `interrupted`: its process is gone, and a new run goes on where it was.
`unknown`: there is no such run, or none that one may see."""

# The service keeps runs for 90 days.
_KNOWN_DAYS = 90
# Covers clocks that differ, and runs that appear late in the service's list.
_OVERLAP = timedelta(minutes=15)
_NO_ANSWER_WOULD_HELP = (400, 422)
_CLIENT_AGE_S = 60.0
_LOG_TAIL = 400


@dataclass(frozen=True)
class RunStatus:
    """How a run stands, and why, for a person."""

    state: RunState
    reason: str | None = None


@dataclass(frozen=True)
class FoundRun:
    """A run that was found by its key."""

    run_id: str
    state: RunState


class Refused(TomopipeError):
    """A scan cannot be started as it is asked for; nothing was sent, and trying again would not help."""


class Kept(TomopipeError):
    """A scan cannot be started now; nothing was sent, and it is tried again.

    Parameters
    ----------
    message : str
    needs_person : bool
        Whether it stays so until somebody does something: log in, deploy.
    """

    def __init__(self, message: str, needs_person: bool = False) -> None:
        super().__init__(message)
        self.needs_person = needs_person


class Backend(Protocol):
    """Makes runs of one target."""

    @property
    def settle_s(self) -> float:
        """How long after its start a run may not be found yet, seconds."""

    def find(self, key: str) -> FoundRun | None:
        """The run of a key, whoever started it; None where there is none. Raises TomopipeError where it cannot be told."""

    def submit(self, entry: Entry, key: str) -> str:
        """Start the run of a key; its id.

        Raises
        ------
        Refused, Kept, ScanError
            Nothing was sent; ScanError where the file cannot be read now.
        TomopipeError
            It is not known whether the run was started.
        """

    def status(self, run_id: str) -> RunStatus:
        """How a run stands. Raises TomopipeError where it cannot be asked."""

    def close(self) -> None:
        """Let go of connections; runs go on."""


class LocalBackend:
    """Runs of this machine, each in a process of its own that outlives the trigger.

    A run's id is its key, and the store takes an id once. From before the process is made to its end a lock is held that
    the process inherits: a trigger that comes back tells by it whether a run that is not in the store is being started.

    Parameters
    ----------
    config : LocalConfig
    folder : Path
        For locks, requests and logs of the processes; on a local disk.
    """

    settle_s = 0.0

    def __init__(self, config: LocalConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def find(self, key: str) -> FoundRun | None:
        found = self._look(key)
        return None if found.state == "never started" else FoundRun(key, found.state)

    def submit(self, entry: Entry, key: str) -> str:
        request = self._request(entry, key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._locked(key)
            if descriptor is None:
                # Another trigger has started it just now.
                return key
            try:
                if self._stored(key) is None:
                    self._outcome(key).unlink(missing_ok=True)
                    write_json(self._file(key, "json"), request)
                    self._start(key, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Kept(
                f"{self._folder}: the run cannot be started ({error}); free space or permissions there"
            ) from error
        return key

    def status(self, run_id: str) -> RunStatus:
        return self._look(run_id)

    def close(self) -> None:
        self._reap()

    def _look(self, key: str) -> RunStatus:
        self._reap()
        # In this order: a process that is done between the two looks has left its record.
        running = self._is_locked(key)
        stored = self._stored(key)
        if stored is not None:
            return stored
        if running:
            return RunStatus("starting", "is being started")
        return self._told(key)

    def _stored(self, key: str) -> RunStatus | None:
        from ..local.run import run_store

        store = run_store()
        record = store.find_run(key) if store.path.is_file() else None
        if record is None:
            return None
        states: dict[str, RunState] = {
            "ACTIVE": "active", "SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELLED": "failed",
            "INTERRUPTED": "interrupted",
        }  # fmt: skip
        reasons = {"CANCELLED": "was cancelled", "INTERRUPTED": "its process was ended"}
        return RunStatus(states[record.status], record.error or reasons.get(record.status))

    def _told(self, key: str) -> RunStatus:
        """What a process said that ended before there was a run."""
        try:
            outcome = json.loads(self._outcome(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return RunStatus("never started", f"the process ended before the run began{self._tail(key)}")
        except (OSError, ValueError) as error:
            raise TomopipeError(f"{self._outcome(key)}: cannot be read ({error})") from error
        return RunStatus("failed" if outcome["refused"] else "never started", outcome["reason"])

    def _request(self, entry: Entry, key: str) -> dict[str, Any]:
        plan = entry.plan or {}
        copy_to = self._config.copy_to
        return {
            "scan": entry.path,
            "output": str(self._config.output),
            "copy_to": None if copy_to is None else str(copy_to),
            "execution": self._config.execution.model_dump(mode="json", exclude_unset=True),
            "parameters": plan.get("parameters") or {},
            "skip": list(plan.get("skip") or ()),
            "tags": [run_tag(key), *(plan.get("tags") or ())],
            "scan_id": entry.scan_id,
            "run_id": key,
            "outcome": str(self._outcome(key)),
        }

    def _start(self, key: str, descriptor: int) -> None:
        command = [
            sys.executable,
            "-m",
            "tomopipe.flows.trigger.local_run",
            str(self._file(key, "json")),
            str(descriptor),
        ]
        with self._file(key, "log").open("ab") as log:
            self._children[key] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(descriptor,),
                start_new_session=True,
            )

    def _locked(self, key: str) -> int | None:
        """Descriptor of the key's lock, held; None where another process holds it."""
        descriptor = os.open(self._file(key, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _is_locked(self, key: str) -> bool:
        if not self._file(key, "lock").exists():
            return False
        try:
            descriptor = os.open(self._file(key, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise TomopipeError(f"{self._file(key, 'lock')}: cannot be opened ({error})") from error
        try:
            # Shared: two that look at a time do not take each other for the run.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _reap(self) -> None:
        for key in [key for key, child in self._children.items() if child.poll() is not None]:
            del self._children[key]

    def _tail(self, key: str) -> str:
        with contextlib.suppress(OSError):
            text = self._file(key, "log").read_bytes()[-4 * _LOG_TAIL :].decode(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                return f": {lines[-1][-_LOG_TAIL:]}"
        return ""

    def _outcome(self, key: str) -> Path:
        return self._file(key, "outcome.json")

    def _file(self, key: str, ending: str) -> Path:
        return self._folder / f"{key}.{ending}"


class ServiceBackend:
    """Runs of a deployment, at the Globus Flows service.

    Parameters
    ----------
    deployment : str
        Name or file.
    settle_s : float
        How long a run may take to appear in the service's list.
    make_client : callable, optional
        Makes the client of a deployment.
    """

    def __init__(self, deployment: str, settle_s: float, make_client: Callable[[str], Client] | None = None) -> None:
        self._deployment = deployment
        self._settle_s = settle_s
        self._make_client = make_client or _client
        self._client: Client | None = None
        self._made_at = 0.0
        self._listed: dict[str, str] = {}
        self._listed_at: datetime | None = None

    @property
    def settle_s(self) -> float:
        """How long a run may take to appear in the service's list, seconds."""
        return self._settle_s

    def find(self, key: str) -> FoundRun | None:
        self._list()
        run_id = self._listed.get(key)
        return None if run_id is None else FoundRun(run_id, self.status(run_id).state)

    def submit(self, entry: Entry, key: str) -> str:
        from ..login import GlobusServiceError

        try:
            client = self._connected()
            prepared = self._prepared(client, entry, key)
        except (Refused, ScanError):
            raise
        except TomopipeError as error:
            self.close()
            raise _kept(error) from error
        try:
            # A run of the same request that is under way, whoever started it, is taken for this one.
            return client.start(prepared).run_id
        except GlobusServiceError as error:
            self.close()
            if error.status in _NO_ANSWER_WOULD_HELP:
                raise Refused(str(error)) from error
            raise

    def status(self, run_id: str) -> RunStatus:
        client = self._connected()
        try:
            run = client.peek(run_id)
            if run.status == "FAILED":
                run = client.run(run_id)
        except InputError as error:
            return RunStatus("unknown", str(error))
        except TomopipeError:
            self.close()
            raise
        if run.status == "INACTIVE":
            return RunStatus("inactive", f"{run.consent or 'waits for a person'}; see {run.url}")
        states: dict[str, RunState] = {"ACTIVE": "active", "SUCCEEDED": "succeeded"}
        reason = {"FAILED": run.error, "CANCELLED": "was cancelled"}.get(run.status)
        return RunStatus(states.get(run.status, "failed"), reason)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Client:
        """A client that is good for a while: the flow may be deployed anew, and a login renewed."""
        now = time.monotonic()
        if self._client is not None and now - self._made_at > _CLIENT_AGE_S:
            self.close()
        if self._client is None:
            client = self._make_client(self._deployment)
            # Logs in, so that what is wrong with the login is not taken for something else later.
            _ = client.services
            self._client, self._made_at = client, now
        return self._client

    def _list(self) -> None:
        """Learn the runs that have appeared since the last time; they never change their tags."""
        now = datetime.now(UTC)
        since = now - timedelta(days=_KNOWN_DAYS) if self._listed_at is None else self._listed_at - _OVERLAP
        try:
            runs = self._connected().runs(limit=None, since=since)
        except TomopipeError as error:
            self.close()
            raise _kept(error) from error
        for run in runs:
            for tag in run.tags:
                if tag.startswith(run_tag("")):
                    self._listed[tag.removeprefix(run_tag(""))] = run.run_id
        self._listed_at = now

    def _prepared(self, client: Client, entry: Entry, key: str) -> PreparedRun:
        # Asks the service, so that a missing login or an old flow is noticed before anything is said of the scan.
        _ = client.flow_id, client.defaults
        plan = entry.plan or {}
        try:
            prepared = client.prepare(
                entry.path,
                scan_id=entry.scan_id,
                parameters=plan.get("parameters"),
                skip=plan.get("skip") or (),
                tags=[run_tag(key), *(plan.get("tags") or ())],
                share=plan.get("share"),
            )
            people = plan.get("visible_to")
            return prepared if people is None else _visible_to(prepared, people)
        except ScanError:
            raise
        except InputError as error:
            raise Refused(str(error)) from error


class Backends:
    """The back ends by their targets, made when they are first needed.

    Parameters
    ----------
    local : LocalConfig or None
    folder : Path
        For what local runs need.
    settle_s : float
        Of services.
    """

    def __init__(self, local: LocalConfig | None, folder: Path, settle_s: float) -> None:
        self._local, self._folder, self._settle_s = local, folder, settle_s
        self._made: dict[str, Backend] = {}

    def get(self, target: str) -> Backend:
        """The back end of `local` or of a deployment.

        Raises
        ------
        InputError
            The configuration says nothing of local runs.
        """
        if target not in self._made:
            self._made[target] = self._make(target)
        return self._made[target]

    def close(self) -> None:
        """Let go of all connections; runs go on."""
        for backend in self._made.values():
            backend.close()

    def settle_s(self, target: str) -> float:
        """How long a run of a target may not be found yet, seconds."""
        return 0.0 if target == LOCAL else self._settle_s

    def _make(self, target: str) -> Backend:
        if target != LOCAL:
            return ServiceBackend(target, self._settle_s)
        if self._local is None:
            raise InputError(
                "local runs: the configuration has no 'local:' with the folder 'output:' of results; add it"
            )
        return LocalBackend(self._local, self._folder)


def _kept(error: TomopipeError) -> Kept:
    """An error that was met before anything was sent."""
    from ..login import ConsentNeeded, LoginNeeded

    return Kept(str(error), needs_person=isinstance(error, InputError | LoginNeeded | ConsentNeeded))


def _client(deployment: str) -> Client:
    from ..client import Client

    return Client(deployment)


def _visible_to(prepared: PreparedRun, people: list[str]) -> PreparedRun:
    """The same run with other readers of its record; it is another request, then."""
    from ..request import FlowInput
    from ..service_run import own_tags, request_digest, run_tags

    fields = {**prepared.body["input"], "visible_to": people}
    body = validate_model(FlowInput, fields, "rule: visible_to").document()
    tags = run_tags(body["input"]["scan_id"], request_digest(body), own_tags(prepared.tags))
    return dataclasses.replace(prepared, body=body, tags=tuple(tags))
