"""Finds a run by what a person calls it, wherever it runs: on this machine or at a facility.

What is done with it is left to the commands.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomopipe.functions.errors import InputError, TomopipeError

if TYPE_CHECKING:
    from .client import Client
    from .local.run_store import RunRecord
    from .login import GlobusServiceError
    from .service_run import Base, ServiceRun
    from .submissions import Submission

DEPLOYMENT_VARIABLE = "TOMOPIPE_DEPLOYMENT"


@dataclass(frozen=True)
class ServiceReference:
    """A run at a facility.

    Parameters
    ----------
    client : Client
    run_id : str
    known : Submission or None
        What this machine knows of it.
    """

    client: Client
    run_id: str
    known: Submission | None


@dataclass(frozen=True)
class Elsewhere:
    """Where the results of a run are that this machine has not.

    Parameters
    ----------
    run_id, deployment : str
    run_directory : str
        On the processing collection.
    folder, report : str
        Web addresses; that of the folder stands for a report that nothing serves.
    """

    run_id: str
    deployment: str
    run_directory: str
    folder: str
    report: str


def find_run(name: str, deployment: str | None = None) -> RunRecord | ServiceReference:
    """The run of a run id, its beginning, or a scan id (its latest run).

    Looks at the runs that this machine knows, local ones and those at a facility; then asks the deployment of the
    environment, where one is set.

    Parameters
    ----------
    name : str
    deployment : str, optional
        Look there alone.

    Raises
    ------
    InputError
        There is no such run, or several.
    """
    if deployment is not None:
        return _at_deployment(name, deployment)
    local, known = find_local(name), find_known(name)
    if local is not None and known is not None and name not in (local.label, known.scan_id):
        raise InputError(f"run {name!r}: several runs begin so: {local.run_id}, {known.run_id}; give more of the id")
    if local is not None and (known is None or local.started >= known.started):
        return local
    if known is not None:
        return ServiceReference(client_of(known), known.run_id, known)
    default = os.environ.get(DEPLOYMENT_VARIABLE)
    if default:
        return _at_deployment(name, default)
    raise InputError(
        f"run {name!r}: there is no such run on this machine, nor one that it submitted; `tomopipe runs` lists them, and "
        "--deployment NAME asks a facility"
    )


def find_local(name: str) -> RunRecord | None:
    """The local run of a scan id (the latest), or of a run id or its beginning; None where there is none.

    Raises
    ------
    InputError
        Several run ids begin so.
    """
    from .local.run import run_store

    records = run_store().list_runs(1_000_000)
    latest = next((record for record in records if record.label == name), None)
    if latest is not None or not name:
        return latest
    found = [record for record in records if record.run_id.startswith(name.lower())]
    if len(found) > 1:
        candidates = ", ".join(record.run_id for record in found[:5])
        raise InputError(f"run {name!r}: several runs begin so: {candidates}; give more of the id")
    return found[0] if found else None


def latest_good(scan_id: str) -> RunRecord | None:
    """The latest local run of a scan that succeeded."""
    from .local.run import run_store

    records = run_store().list_runs(1_000_000, status="SUCCEEDED")
    return next((record for record in records if record.label == scan_id), None)


def local_base(record: RunRecord, given: Mapping[str, Any], skip: Iterable[str]) -> Base:
    """What a local run brings along to the request that starts from it, beside what is `given` anew."""
    from .service_run import Base, flat

    asked = flat(given)
    brought = {name: value for name, value in flat(record.input["input"]["parameters"]).items() if name not in asked}
    skipped = {"skip": list(skip)} if skip else {}
    return Base(record.run_id, record.status, {**brought, **skipped})


def error_of(record: RunRecord) -> str | None:
    """Why a local run failed; from its log, where the record only says that the log has the cause."""
    from .local.actions import first_failure, is_withheld
    from .local.run import run_store

    if record.error is None or not is_withheld(record.error):
        return record.error
    events = run_store().events(record.run_id)
    return first_failure((event.code, event.details) for event in events) or record.error


def results_of(name: str) -> RunRecord | Path | Elsewhere:
    """Where the results of a run are: its record for a local one; of one at a facility its directory, or its addresses.

    The directory is given where this machine has it, because it is the one that computes or shares its folders.

    Parameters
    ----------
    name : str
        As in `find_run`.

    Raises
    ------
    InputError
        There is no such run, or it has no results.
    GlobusServiceError
        The service cannot be asked, and this machine does not know where the results are.
    """
    found = find_run(name)
    if not isinstance(found, ServiceReference):
        return found
    with found.client:
        run, reason = stand(found)
        if run.run_directory is None:
            if reason is not None:
                raise reason
            raise InputError(
                f"run {run.run_id}: ran at {run.deployment} and has no results ({run.status}); "
                f"see: tomopipe status {run.run_id[:8]}"
            )
        folder = found.client.results_on_host(run)
        if folder is not None:
            return folder
        return Elsewhere(run.run_id, run.deployment, run.run_directory, *found.client.result_addresses(run))


def find_known(name: str) -> Submission | None:
    """The run at a facility that this machine knows by a name."""
    from .submissions import submission_store

    return submission_store().find(name)


def client_of(known: Submission) -> Client:
    """Client of the deployment of a run that this machine knows."""
    from .client import Client

    # The file may have been moved since; a name is looked for where names are.
    return Client(known.source if Path(known.source).is_file() else known.deployment)


def stand(found: ServiceReference) -> tuple[ServiceRun, GlobusServiceError | None]:
    """How a run at a facility stands; as last known, with the reason, where the service cannot be asked.

    Raises
    ------
    GlobusServiceError
        The service cannot be asked, and this machine knows nothing of the run.
    """
    from .client import last_known
    from .login import GlobusServiceError

    try:
        return found.client.run(found.run_id), None
    except GlobusServiceError as error:
        if found.known is None:
            raise
        return last_known(found.known), error


def cancel_local(record: RunRecord) -> None:
    """Ask the process of a local run to stop in order, as Ctrl-C does.

    Raises
    ------
    InputError
        It has ended, or runs on another machine.
    TomopipeError
        The process belongs to somebody else.
    """
    import psutil

    if record.status != "ACTIVE":
        raise InputError(f"run {record.run_id}: has ended ({record.status}); there is nothing to cancel")
    if record.host != socket.gethostname():
        raise InputError(f"run {record.run_id}: runs on {record.host}; cancel it there")
    try:
        process = psutil.Process(record.process)
        # A number that went to another process must not have that one stopped; psutil looks again when it signals.
        if abs(process.create_time() - record.process_started) >= 1.0:
            raise InputError(f"run {record.run_id}: its process has ended; there is nothing to cancel")
        process.terminate()
    except psutil.NoSuchProcess as error:
        raise InputError(f"run {record.run_id}: its process has ended; there is nothing to cancel") from error
    except psutil.AccessDenied as error:
        raise TomopipeError(
            f"run {record.run_id}: process {record.process} belongs to somebody else; ask that person"
        ) from error


def _at_deployment(name: str, deployment: str) -> ServiceReference:
    from .client import Client

    client = Client(deployment)
    known = find_known(name)
    # Of a scan the latest run is meant, which another machine may have submitted.
    if known is not None and known.deployment == client.deployment.name and known.scan_id != name:
        return ServiceReference(client, known.run_id, known)
    run_id = client.find(name)
    if run_id is None:
        raise InputError(
            f"run {name!r}: deployment {client.deployment.name} has no such run that you may see; "
            f"tomopipe runs --deployment {deployment} lists them"
        )
    return ServiceReference(client, run_id, find_known(run_id))
